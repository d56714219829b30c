//! Which node takes which place in the pipelines, when links differ: Pipette's objective and annealing.
//!
//! Source: Yim et al., "Pipette: Automatic Fine-grained Large Language Model Training Configurator for Real-World
//! Clusters", 2024. Where its code scales a difference by its power of ten, so that acceptance hardly depends on the
//! size of a loss, this does the same, to be comparable.

/// What nodes send each other in a step, and how fast each does.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange<'a> {
    /// `[from][to]`, bytes per second; the diagonal is the bandwidth within a node.
    pub bytes_per_s: &'a [Vec<f64>],
    /// Stages of a pipeline; a map's rows are pipelines of so many nodes.
    pub stages: usize,
    /// Bytes between neighbouring stages in a step, each way.
    pub between_stages: f64,
    /// Bytes of gradients that the pipelines' first nodes sum in a ring; 0 for none.
    pub between_replicas: f64,
    /// Replicas within a node.
    pub replicas_per_node: usize,
}

impl Exchange<'_> {
    /// Seconds of the slowest pipeline's hops, there and back, and of summing gradients: first among the replicas of a
    /// node, then around the ring of the first nodes of all pipelines.
    ///
    /// # Panics
    /// If the map does not hold whole pipelines of known nodes.
    pub fn seconds(&self, map: &[usize]) -> f64 {
        let hops = |pipeline: &[usize]| -> f64 {
            pipeline.windows(2).map(|pair| 2.0 * self.between_stages / self.bytes_per_s[pair[0]][pair[1]]).sum()
        };
        let slowest = map.chunks(self.stages).map(hops).fold(0.0, f64::max);
        let firsts: Vec<usize> = map.iter().copied().step_by(self.stages).collect();
        let ring = |bytes: f64, ranks: usize, bytes_per_s: f64| match ranks {
            0 | 1 => 0.0,
            n => 2.0 * (n - 1) as f64 / n as f64 * bytes / bytes_per_s,
        };
        let within = firsts.iter().map(|&node| self.bytes_per_s[node][node]).fold(f64::INFINITY, f64::min);
        let steps = firsts.iter().zip(firsts.iter().cycle().skip(1)).filter(|(a, b)| a != b);
        let around = steps.map(|(&a, &b)| self.bytes_per_s[a][b]).fold(f64::INFINITY, f64::min);
        let inner = ring(self.between_replicas, self.replicas_per_node, within);
        slowest + inner + ring(self.between_replicas, firsts.len(), around)
    }

    /// The best of all maps, by trying each: for at most 8 nodes or so.
    pub fn exhaustive(&self) -> Vec<usize> {
        let mut map: Vec<usize> = (0..self.bytes_per_s.len()).collect();
        let mut best = (self.seconds(&map), map.clone());
        // Heap's algorithm.
        let mut counts = vec![0; map.len()];
        let mut i = 1;
        while i < map.len() {
            if counts[i] < i {
                let other = if i.is_multiple_of(2) { 0 } else { counts[i] };
                map.swap(other, i);
                let seconds = self.seconds(&map);
                if seconds < best.0 {
                    best = (seconds, map.clone());
                }
                counts[i] += 1;
                i = 1;
            } else {
                counts[i] = 0;
                i += 1;
            }
        }
        best.1
    }

    /// A good map by [`anneal`].
    pub fn anneal(&self, iterations: usize, seed: u64) -> Vec<usize> {
        anneal(self.bytes_per_s.len(), iterations, seed, &|map| self.seconds(map))
    }
}

/// A good order of `n` nodes by simulated annealing from the identity: `iterations` moves drawn from `seed`, the best seen.
/// Moves are reversing a stretch, inserting a node elsewhere, swapping two, moving a stretch, and moving it reversed.
pub(crate) fn anneal(n: usize, iterations: usize, seed: u64, cost: &dyn Fn(&[usize]) -> f64) -> Vec<usize> {
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
