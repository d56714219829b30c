//! Which rank holds which row of the vocabulary's matrices.

use mesh::{Placement, Rank};
use std::ops::Range;

/// The rows of a matrix, cut into one run per rank. Sizes differ by at most one; with more ranks than rows the last
/// runs are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where each run begins, and after them the number of rows.
    offsets: Vec<usize>,
}

impl Cut {
    /// `n_rows` over `n_ranks`.
    pub fn even(n_rows: usize, n_ranks: usize) -> Self {
        match Placement::even(0, n_rows, n_ranks) {
            Placement::Shard { offsets, .. } => Self { offsets },
            Placement::Replicate | Placement::Partial(_) => unreachable!("an even cut is a shard"),
        }
    }

    pub fn n_ranks(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn n_rows(&self) -> usize {
        self.offsets[self.n_ranks()]
    }

    /// The rows of `rank`.
    pub fn rows(&self, rank: Rank) -> Range<usize> {
        self.offsets[rank.0]..self.offsets[rank.0 + 1]
    }

    /// Who holds the row of token `id`, and which of its rows that is.
    ///
    /// # Panics
    /// When `id` lies outside the vocabulary.
    pub fn locate(&self, id: i32) -> (Rank, usize) {
        let n_rows = self.n_rows();
        let row = usize::try_from(id).ok().filter(|&row| row < n_rows);
        let row = row.unwrap_or_else(|| panic!("token {id} of {n_rows}"));
        let rank = self.offsets.partition_point(|&offset| offset <= row) - 1;
        (Rank(rank), row - self.offsets[rank])
    }

    /// Cuts one row of `width` values per token: to each rank those of the tokens it holds, in the tokens' order.
    pub fn scatter(&self, ids: &[i32], values: &[f32], width: usize) -> Vec<Vec<f32>> {
        let mut parts = vec![Vec::new(); self.n_ranks()];
        for (&id, row) in ids.iter().zip(values.chunks(width)) {
            parts[self.locate(id).0.0].extend_from_slice(row);
        }
        parts
    }

    /// The inverse of [`Cut::scatter`].
    pub fn gather(&self, ids: &[i32], parts: &[Vec<f32>], width: usize) -> Vec<f32> {
        let mut rows: Vec<_> = parts.iter().map(|part| part.chunks(width)).collect();
        let mut values = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let row = rows[self.locate(id).0.0].next();
            values.extend_from_slice(row.expect("invariant: a rank sends a row for every token it holds"));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_one_place() {
        for n_rows in [1, 2, 5, 29] {
            for n_ranks in [1, 2, 3, 4, 8] {
                let cut = Cut::even(n_rows, n_ranks);
                let rows: Vec<usize> = (0..n_ranks).flat_map(|rank| cut.rows(Rank(rank))).collect();
                assert_eq!(rows, (0..n_rows).collect::<Vec<_>>());
                let sizes = (0..n_ranks).map(|rank| cut.rows(Rank(rank)).len());
                assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
                for row in 0..n_rows {
                    let (rank, local) = cut.locate(row as i32);
                    assert_eq!(cut.rows(rank).start + local, row);
                }
                let ids: Vec<i32> = (0..17).map(|i| (i * i % n_rows) as i32).collect();
                let values: Vec<f32> = (0..ids.len() * 3).map(|i| i as f32).collect();
                assert_eq!(cut.gather(&ids, &cut.scatter(&ids, &values, 3), 3), values);
            }
        }
    }
}
