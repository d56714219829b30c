//! Text that is token ids already: files of little-endian ids, mapped where they lie.
//!
//! No header, 2 or 4 bytes an id, every document ended by the tokenizer's end-of-text token: what nanoGPT writes, and
//! Megatron's `.bin`.

use crate::tokens::TokenWidth;
use crate::{CorpusError, Result, Tokenizer};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

/// The files of one source.
pub(crate) struct TokenFiles {
    files: Vec<(PathBuf, Mmap)>,
    width: TokenWidth,
}

impl TokenFiles {
    /// Maps the files.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or does not divide into ids.
    pub fn open(paths: &[PathBuf], width: TokenWidth) -> Result<TokenFiles> {
        let open = |path: &PathBuf| {
            let unreadable = |source| CorpusError::Read { path: path.clone(), source };
            let file = File::open(path).map_err(unreadable)?;
            let n_bytes = file.metadata().map_err(unreadable)?.len();
            if n_bytes == 0 || !n_bytes.is_multiple_of(width.bytes() as u64) {
                return Err(CorpusError::TokenFileLength { path: path.clone(), n_bytes, width: width.bytes() });
            }
            // SAFETY: the user's file, of which the guide says that it must not be changed while a run reads it. Ids
            // are read as bytes and checked before use, so a change gives other numbers or ends the process.
            let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
            Ok((path.clone(), map))
        };
        Ok(TokenFiles { files: paths.iter().map(open).collect::<Result<_>>()?, width })
    }

    /// Hands every document to `visit`: the number of its first token over all files, its ids as stored, and the bytes
    /// of its text.
    ///
    /// # Errors
    /// An id outside the vocabulary, a file whose last token does not end a document, and what `visit` says.
    pub fn documents(&self, tokenizer: &Tokenizer, mut visit: impl FnMut(u64, &[u8], u64) -> Result<()>) -> Result<()> {
        let byte_lengths = tokenizer.byte_lengths();
        let end_of_text = tokenizer.end_of_text();
        let width = self.width.bytes();
        let mut first = 0;
        for (path, map) in &self.files {
            let n = map.len() / width;
            let (mut start, mut bytes) = (0, 0);
            for index in 0..n {
                let id = self.width.id(map, index);
                let Some(length) = byte_lengths.get(id as usize) else {
                    return Err(CorpusError::TokenOutOfVocabulary {
                        path: path.clone(),
                        index: index as u64,
                        offset: (index * width) as u64,
                        id,
                        vocab_size: byte_lengths.len(),
                    });
                };
                bytes += u64::from(*length);
                if id == end_of_text {
                    let place: Range<usize> = start * width..(index + 1) * width;
                    visit(first + start as u64, &map[place], bytes)?;
                    (start, bytes) = (index + 1, 0);
                }
            }
            if start < n {
                let last = self.width.id(map, n - 1);
                let (path, name) = (path.clone(), tokenizer.token(end_of_text).unwrap_or_default());
                return Err(CorpusError::NoDocumentEnd { path, last, end_of_text, name });
            }
            first += n as u64;
        }
        Ok(())
    }

    /// The maps, in order.
    pub fn into_maps(self) -> Vec<Mmap> {
        self.files.into_iter().map(|(_, map)| map).collect()
    }
}
