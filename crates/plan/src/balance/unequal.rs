//! Stages of equal time on devices of unequal speed.

/// Sizes of `seconds.len()` runs of consecutive units, every run at least one unit, whose slowest is fastest:
/// `seconds[stage][unit]` is what a unit takes where the stage lies. Exact.
///
/// Among equals early stages have the fewest units, because early stages keep the most microbatches alive.
///
/// The linear-partition dynamic programme over (stages, units). A run is made longer until it alone is slower than the
/// best found, so that few of the `stages * units^2 / 2` steps are taken.
///
/// # Panics
/// If there is no stage, there are fewer units than stages, or stages differ in their number of units.
pub fn balance_unequal(seconds: &[&[f64]]) -> Vec<usize> {
    let (n_stages, n_units) = (seconds.len(), seconds.first().map_or(0, |of| of.len()));
    assert!(n_stages > 0 && n_units >= n_stages, "{n_units} units in {n_stages} stages");
    assert!(seconds.iter().all(|of| of.len() == n_units), "every stage has seconds for every unit");
    let first = prefix(seconds[0]);
    // best[i]: the slowest stage of the first i units in as many stages as rounds have passed.
    let mut best: Vec<f64> = first.clone();
    best[0] = f64::INFINITY;
    let mut borders: Vec<Vec<usize>> = Vec::with_capacity(n_stages - 1);
    let mut sums = first;
    for (stage, of) in seconds.iter().enumerate().skip(1) {
        // Stages on devices of one kind share their seconds.
        if !std::ptr::eq(*of, seconds[stage - 1]) {
            sums = prefix(of);
        }
        let mut next = vec![f64::INFINITY; n_units + 1];
        let mut border = vec![0; n_units + 1];
        for end in stage + 1..=n_units {
            for begin in (stage..end).rev() {
                let last = sums[end] - sums[begin];
                if last > next[end] {
                    break;
                }
                let slowest = best[begin].max(last);
                // Of equals the earliest border.
                if slowest <= next[end] {
                    (next[end], border[end]) = (slowest, begin);
                }
            }
        }
        best = next;
        borders.push(border);
    }
    let mut sizes = vec![0; n_stages];
    let mut end = n_units;
    for stage in (1..n_stages).rev() {
        let begin = borders[stage - 1][end];
        sizes[stage] = end - begin;
        end = begin;
    }
    sizes[0] = end;
    sizes
}

fn prefix(of: &[f64]) -> Vec<f64> {
    let mut sums = Vec::with_capacity(of.len() + 1);
    let mut sum = 0.0;
    sums.push(sum);
    for seconds in of {
        sum += seconds;
        sums.push(sum);
    }
    sums
}
