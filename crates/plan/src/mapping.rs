//! Which node takes which place in the pipelines, when links differ: Pipette's annealing.
//!
//! Source: Yim et al., "Pipette: Automatic Fine-grained Large Language Model Training Configurator for Real-World
//! Clusters", 2024. Where its code scales a difference by its power of ten, so that acceptance hardly depends on the
//! size of a loss, this does the same, to be comparable.

/// A good order of `n` nodes by simulated annealing from the identity: `iterations` moves drawn from `seed`, the best seen.
/// Moves are reversing a stretch, inserting a node elsewhere, swapping two, moving a stretch, and moving it reversed.
///
/// `cost` is what is made small, of an order, in any unit. The same `seed` finds the same order.
pub fn anneal(n: usize, iterations: usize, seed: u64, cost: &dyn Fn(&[usize]) -> f64) -> Vec<usize> {
    let mut random = Random(seed);
    let mut map: Vec<usize> = (0..n).collect();
    if n < 2 {
        return map;
    }
    let mut seconds = cost(&map);
    let mut best = (seconds, map.clone());
    let mut temperature = 1.0_f64;
    for _ in 0..iterations {
        let moved = moved(&map, &mut random);
        let new = cost(&moved);
        let worse = new - seconds;
        // Scaled into (0.1, 1] by its power of ten.
        let scaled = if worse > 0.0 { worse / 10_f64.powf(worse.log10().ceil()) } else { 0.0 };
        if worse <= 0.0 || random.unit() < (-scaled / temperature).exp() {
            (map, seconds) = (moved, new);
            if seconds < best.0 {
                best = (seconds, map.clone());
            }
        }
        temperature = (temperature * COOLING).max(COLDEST);
    }
    best.1
}

/// The temperature's factor from move to move, and where it stays: below it nothing worse is taken.
const COOLING: f64 = 0.999;
const COLDEST: f64 = 1e-3;

fn moved(map: &[usize], random: &mut Random) -> Vec<usize> {
    let n = map.len();
    let (a, b) = (random.below(n), random.below(n));
    let (low, high) = (a.min(b), a.max(b));
    let mut new = map.to_vec();
    match random.below(5) {
        0 => new[low..=high].reverse(),
        1 => {
            let node = new.remove(a);
            new.insert(b, node);
        }
        2 => new.swap(a, b),
        kind => {
            let mut stretch: Vec<usize> = new.drain(low..=high).collect();
            if kind == 4 {
                stretch.reverse();
            }
            let at = random.below(new.len() + 1);
            new.splice(at..at, stretch);
        }
    }
    new
}

/// SplitMix64 (Steele et al., 2014): a stream that is a function of its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}
