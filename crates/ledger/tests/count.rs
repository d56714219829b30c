//! Counts blocks of known sizes.

use ledger::{Ledger, RANKS_MAX, category, live, scope, take_peak};
use simulate::Category;

#[global_allocator]
static ALLOCATOR: Ledger = Ledger;

#[test]
fn blocks_are_booked_to_the_account_that_made_them() {
    let [weights, activations, logits] = [0, 3, 4];
    let kept = {
        let _scope = scope(7, Category::Weights);
        vec![1u8; 10_007]
    };
    let mut grown = {
        let _scope = scope(7, Category::Activations);
        let _inner = category(Category::Logits);
        vec![0u8; 5_003]
    };
    let small = {
        let _scope = scope(7, Category::Weights);
        vec![0u8; 4_095]
    };
    assert_eq!((live(7)[weights], live(7)[activations], live(7)[logits]), (10_007, 0, 5_003));
    // A block that grows elsewhere moves to the account of whoever made it grow.
    {
        let _scope = scope(7, Category::Activations);
        grown.reserve_exact(20_011 - grown.len());
    }
    assert_eq!((live(7)[activations], live(7)[logits]), (20_011, 0));
    std::thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(live(7)[weights], 0);
    let peak = take_peak(7);
    assert_eq!(peak.iter().sum::<u64>(), 10_007 + 5_003 + 20_011, "old and new block live together while it grows");
    drop((grown, small));
    assert_eq!(live(7), [0; 6]);
    assert_eq!(take_peak(7).iter().sum::<u64>(), 20_011);
    assert_eq!(take_peak(7), [0; 6]);
    // Ranks that are not told apart are nobody's.
    for rank in [RANKS_MAX - 1, RANKS_MAX, RANKS_MAX + 1] {
        let _scope = scope(rank, Category::Weights);
        let _block = vec![1u8; 10_007];
        let counted = if rank < RANKS_MAX { 10_007 } else { 0 };
        assert_eq!((live(rank)[weights], take_peak(rank)[weights]), (counted, counted));
    }
}
