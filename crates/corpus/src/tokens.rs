//! A stream of tokens with its document borders, in memory or mapped from the cache.
//!
//! Payload, all little-endian: documents (u64), tokens (u64), end of each document in tokens (u64 each), bytes of each
//! document's text (u64 each), tokens (u32 each).

use crate::cache::{self, Found, Sealed};
use crate::{CorpusError, Document, Result, Tokenizer};
use std::ops::Range;
use std::path::Path;

/// Part of the cache key: a change of the payload or of what is encoded makes old files unknown.
const FORMAT: &str = "millstream corpus: tokens 2";

/// Documents encoded at a time: enough to occupy all cores, little enough to bound the memory of encodings.
const DOCUMENTS_PER_CHUNK: usize = 256;

/// Token ids of consecutive documents, each ended by the tokenizer's end-of-text token.
#[derive(Debug)]
pub struct Tokens {
    storage: Storage,
    documents: usize,
    tokens: usize,
}

/// What became of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The tokens were there.
    Read,
    /// There was none for this text and tokenizer; it was written.
    Written,
    /// The file was truncated or altered; it was written anew.
    Repaired,
}

#[derive(Debug)]
enum Storage {
    Mapped(Sealed),
    Owned(Vec<u8>),
}

impl Tokens {
    /// A fingerprint of all tokens and document borders, in hexadecimal: two texts with the same one train alike.
    pub fn digest(&self) -> String {
        blake3::hash(self.payload()).to_hex().to_string()
    }

    /// The tokens of `documents`, from the cache in `folder` when it holds them, or encoded and put there.
    ///
    /// The file's name and seal depend on every document, the tokenizer and the format, so it is never stale.
    ///
    /// # Errors
    /// The cache folder cannot be read or written, or the tokenizer fails.
    pub fn open(documents: &[Document], tokenizer: &Tokenizer, folder: &Path) -> Result<(Tokens, Cached)> {
        let key = key(documents, tokenizer);
        let path = folder.join(format!("tokens-{}.bin", &key.to_hex()[..16]));
        let unusable = |source| CorpusError::Cache { path: path.clone(), source };
        let cached = match cache::open(&path, &key).map_err(unusable)? {
            Found::Valid(sealed) => return Ok((Tokens::new(Storage::Mapped(sealed)), Cached::Read)),
            Found::Missing => Cached::Written,
            Found::Corrupt => Cached::Repaired,
        };
        cache::write(&path, &key, &encode(documents, tokenizer)?).map_err(unusable)?;
        match cache::open(&path, &key).map_err(unusable)? {
            Found::Valid(sealed) => Ok((Tokens::new(Storage::Mapped(sealed)), cached)),
            Found::Missing | Found::Corrupt => {
                Err(unusable(std::io::Error::other("the file does not read back as it was written")))
            }
        }
    }

    /// Tokens in memory: each document's ids, its end-of-text token included, and its text's length in bytes.
    ///
    /// # Panics
    /// If there is no document, or one holds no token.
    pub fn from_documents(documents: &[(Vec<u32>, u64)]) -> Tokens {
        assert!(!documents.is_empty(), "a stream holds at least one document");
        assert!(documents.iter().all(|(ids, _)| !ids.is_empty()), "a document holds at least its end-of-text token");
        Tokens::new(Storage::Owned(payload(documents)))
    }

    /// Tokens of all documents.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// How many documents.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// The token at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> u32 {
        let at = 16 + 16 * self.documents + 4 * index;
        u32::from_le_bytes(self.payload()[at..at + 4].try_into().expect("invariant: 4 bytes"))
    }

    /// All tokens in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.payload()[16 + 16 * self.documents..]
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("invariant: 4 bytes")))
    }

    /// The tokens of document `document`, its end-of-text token last.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    pub fn document(&self, document: usize) -> Range<usize> {
        let start = if document == 0 { 0 } else { self.number(2 + document - 1) };
        start..self.number(2 + document)
    }

    /// The document that token `index` belongs to.
    pub(crate) fn document_of(&self, index: usize) -> usize {
        let (mut low, mut high) = (0, self.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.number(2 + middle) <= index {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Bytes of a document's text.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    pub fn document_bytes(&self, document: usize) -> u64 {
        assert!(document < self.documents, "document {document} of {}", self.documents);
        self.number(2 + self.documents + document) as u64
    }

    /// Bytes of all documents' texts.
    pub fn bytes(&self) -> u64 {
        (0..self.documents).map(|document| self.document_bytes(document)).sum()
    }

    fn new(storage: Storage) -> Tokens {
        let mut tokens = Tokens { storage, documents: 0, tokens: 0 };
        tokens.documents = tokens.number(0);
        tokens.tokens = tokens.number(1);
        assert_eq!(tokens.payload().len(), 16 + 16 * tokens.documents + 4 * tokens.tokens, "sealed under this format");
        tokens
    }

    fn payload(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(sealed) => sealed.payload(),
            Storage::Owned(bytes) => bytes,
        }
    }

    fn number(&self, index: usize) -> usize {
        let bytes = self.payload()[8 * index..8 * index + 8].try_into().expect("invariant: 8 bytes");
        u64::from_le_bytes(bytes) as usize
    }
}

fn encode(documents: &[Document], tokenizer: &Tokenizer) -> Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(documents.len());
    for chunk in documents.chunks(DOCUMENTS_PER_CHUNK) {
        let texts: Vec<&str> = chunk.iter().map(|document| document.text.as_str()).collect();
        let ids = tokenizer.encode_documents(&texts)?;
        encoded.extend(ids.into_iter().zip(&texts).map(|(ids, text)| (ids, text.len() as u64)));
    }
    Ok(payload(&encoded))
}

fn payload(documents: &[(Vec<u32>, u64)]) -> Vec<u8> {
    let tokens: usize = documents.iter().map(|(ids, _)| ids.len()).sum();
    let mut payload = Vec::with_capacity(16 + 16 * documents.len() + 4 * tokens);
    let mut push = |number: u64| payload.extend_from_slice(&number.to_le_bytes());
    push(documents.len() as u64);
    push(tokens as u64);
    let mut end = 0;
    for (ids, _) in documents {
        end += ids.len() as u64;
        push(end);
    }
    for &(_, bytes) in documents {
        push(bytes);
    }
    for id in documents.iter().flat_map(|(ids, _)| ids) {
        payload.extend_from_slice(&id.to_le_bytes());
    }
    payload
}

fn key(documents: &[Document], tokenizer: &Tokenizer) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(FORMAT);
    for part in std::iter::once(tokenizer.to_json()).chain(documents.iter().map(|document| document.text.as_str())) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize()
}
