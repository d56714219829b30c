//! Training and validation, split by document.

use crate::{CorpusError, Document, Result};

/// Documents of the two sides, each in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// To train on.
    pub train: Vec<Document>,
    /// Held back.
    pub validation: Vec<Document>,
}

/// Splits documents so that about `validation_fraction` of all bytes validate.
///
/// Documents are ranked by a hash of `seed` and their text; from the lowest on they validate until the share is reached,
/// so it is exceeded by less than one document. A document's rank depends on nothing but its own text: adding text
/// moves few others across, and equal documents stand on the same side (unless the border falls among them).
///
/// # Errors
/// A fraction outside (0, 1), or fewer than two documents.
pub fn split(documents: Vec<Document>, validation_fraction: f64, seed: u64) -> Result<Split> {
    if !(validation_fraction > 0.0 && validation_fraction < 1.0) {
        return Err(CorpusError::ValidationFraction { found: validation_fraction });
    }
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    if documents.len() < 2 {
        return Err(CorpusError::OneDocument { bytes });
    }
    let mut ranked: Vec<(blake3::Hash, usize)> =
        documents.iter().enumerate().map(|(index, document)| (rank(seed, document), index)).collect();
    ranked.sort_by(|(a, i), (b, j)| a.as_bytes().cmp(b.as_bytes()).then(i.cmp(j)));

    let wanted_bytes = validation_fraction * bytes as f64;
    let mut validates = vec![false; documents.len()];
    let mut validation_bytes = 0;
    for &(_, index) in &ranked[..documents.len() - 1] {
        if validation_bytes as f64 >= wanted_bytes {
            break;
        }
        validates[index] = true;
        validation_bytes += documents[index].text.len();
    }
    let (validation, train): (Vec<_>, Vec<_>) =
        documents.into_iter().zip(validates).partition(|&(_, validates)| validates);
    let texts = |side: Vec<(Document, bool)>| side.into_iter().map(|(document, _)| document).collect();
    Ok(Split { train: texts(train), validation: texts(validation) })
}

fn rank(seed: u64, document: &Document) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("millstream corpus: training and validation split");
    hasher.update(&seed.to_le_bytes()).update(document.text.as_bytes());
    hasher.finalize()
}
