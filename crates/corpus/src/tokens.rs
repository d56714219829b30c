//! A stream of tokens with its document borders: in memory, mapped from the cache, or mapped from the user's own files.
//!
//! Payload, all little-endian: the tokens (2 or 4 bytes each; absent when they lie in the user's files), three numbers
//! for each document (u64: where its tokens start, where they end in the stream, bytes of its text), and at the end a
//! fingerprint of the user's files (32 bytes, else zeros), the bytes of a token, the documents and the tokens (u64
//! each).

use crate::cache::{self, Found, Sealed, SealedWriter};
use memmap2::Mmap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of a document's entry and of the end.
const ENTRY_BYTES: usize = 24;
const END_BYTES: usize = 32 + 24;

/// Token ids of consecutive documents, each ended by the tokenizer's end-of-text token.
#[derive(Debug)]
pub struct Tokens {
    storage: Storage,
    ids: Ids,
    width: TokenWidth,
    documents: usize,
    tokens: usize,
    entries_start: usize,
    hash: blake3::Hash,
}

/// How token ids are stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenWidth {
    /// 2 bytes: vocabularies of up to 65,536.
    U16,
    /// 4 bytes.
    U32,
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

/// Where the tokens are.
#[derive(Debug)]
enum Ids {
    /// At the start of the payload.
    Own,
    /// In the user's files, each with the number of its first token.
    Files(Vec<(usize, Mmap)>),
}

impl TokenWidth {
    /// The least that holds every id of a vocabulary.
    pub(crate) fn of(vocab_size: usize) -> TokenWidth {
        if vocab_size <= 1 << 16 { TokenWidth::U16 } else { TokenWidth::U32 }
    }

    /// Bytes of a token.
    pub fn bytes(self) -> usize {
        match self {
            TokenWidth::U16 => 2,
            TokenWidth::U32 => 4,
        }
    }

    /// The id at `index` of `bytes`.
    pub(crate) fn id(self, bytes: &[u8], index: usize) -> u32 {
        match self {
            TokenWidth::U16 => {
                u32::from(u16::from_le_bytes(bytes[2 * index..2 * index + 2].try_into().expect("invariant: 2 bytes")))
            }
            TokenWidth::U32 => {
                u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().expect("invariant: 4 bytes"))
            }
        }
    }
}

impl Tokens {
    /// A fingerprint of all tokens and document borders, in hexadecimal: two texts with the same one train alike. Free:
    /// it was computed when the tokens were opened.
    pub fn digest(&self) -> String {
        self.hash.to_hex().to_string()
    }

    /// Tokens in memory: each document's ids, its end-of-text token included, and its text's length in bytes.
    ///
    /// # Panics
    /// If there is no document, or one holds no token.
    pub fn from_documents(documents: &[(Vec<u32>, u64)]) -> Tokens {
        assert!(!documents.is_empty(), "a stream holds at least one document");
        assert!(documents.iter().all(|(ids, _)| !ids.is_empty()), "a document holds at least its end-of-text token");
        let mut payload: Vec<u8> = documents.iter().flat_map(|(ids, _)| ids).flat_map(|id| id.to_le_bytes()).collect();
        let mut end = 0;
        for (ids, bytes) in documents {
            payload.extend(entry(end, end + ids.len() as u64, *bytes));
            end += ids.len() as u64;
        }
        payload.extend(end_of_payload(None, TokenWidth::U32, documents.len() as u64, end));
        let hash = blake3::hash(&payload);
        Tokens::new(Storage::Owned(payload), Ids::Own, hash)
    }

    /// The cached tokens at `path`, if they were sealed under `key`.
    pub(crate) fn open(path: &Path, key: &blake3::Hash) -> io::Result<std::result::Result<Tokens, Cached>> {
        Ok(match cache::open(path, key)? {
            Found::Valid(sealed) => {
                let hash = sealed.hash();
                Ok(Tokens::new(Storage::Mapped(sealed), Ids::Own, hash))
            }
            Found::Missing => Err(Cached::Written),
            Found::Corrupt => Err(Cached::Repaired),
        })
    }

    /// The tokens of the user's `files`, whose borders are cached.
    pub(crate) fn with_files(mut self, files: Vec<Mmap>) -> Tokens {
        let mut first = 0;
        let width = self.width.bytes();
        let numbered = files.into_iter().map(|file| {
            let numbered = (first, file);
            first += numbered.1.len() / width;
            numbered
        });
        self.ids = Ids::Files(numbered.collect());
        self
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
        assert!(index < self.tokens, "token {index} of {}", self.tokens);
        let document = self.document_of(index);
        self.width.id(self.document_ids(document), index - self.document(document).start)
    }

    /// All tokens in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.documents).flat_map(|document| self.ids(document))
    }

    /// The tokens of document `document` as places in the stream, its end-of-text token last.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    pub fn document(&self, document: usize) -> std::ops::Range<usize> {
        let start = if document == 0 { 0 } else { self.number(document - 1, 1) };
        start..self.number(document, 1)
    }

    /// The ids of document `document`, its end-of-text token last.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    pub fn ids(&self, document: usize) -> impl Iterator<Item = u32> + '_ {
        let bytes = self.document_ids(document);
        (0..bytes.len() / self.width.bytes()).map(|index| self.width.id(bytes, index))
    }

    /// Bytes of a document's text.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    pub fn document_bytes(&self, document: usize) -> u64 {
        self.number(document, 2) as u64
    }

    /// Bytes of all documents' texts.
    pub fn bytes(&self) -> u64 {
        (0..self.documents).map(|document| self.document_bytes(document)).sum()
    }

    /// Reads on from token `index`, around the end of the stream.
    pub(crate) fn walk(&self, index: usize) -> Walk<'_> {
        let document = self.document_of(index);
        let place = index - self.document(document).start;
        Walk { tokens: self, document, ids: self.document_ids(document), place }
    }

    /// The document that token `index` belongs to.
    fn document_of(&self, index: usize) -> usize {
        let (mut low, mut high) = (0, self.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.number(middle, 1) <= index {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    fn new(storage: Storage, ids: Ids, hash: blake3::Hash) -> Tokens {
        let width = TokenWidth::U32;
        let mut tokens = Tokens { storage, ids, width, documents: 0, tokens: 0, entries_start: 0, hash };
        let payload = tokens.payload();
        let length = payload.len();
        let number =
            |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("invariant: 8 bytes")) as usize;
        let (width, documents, n) = (number(length - 24), number(length - 16), number(length - 8));
        tokens.width = if width == 2 { TokenWidth::U16 } else { TokenWidth::U32 };
        (tokens.documents, tokens.tokens) = (documents, n);
        tokens.entries_start = length - END_BYTES - ENTRY_BYTES * documents;
        tokens
    }

    fn payload(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(sealed) => sealed.payload(),
            Storage::Owned(bytes) => bytes,
        }
    }

    /// Number `which` of a document's entry: 0 where its tokens start, 1 where they end in the stream, 2 its bytes.
    fn number(&self, document: usize, which: usize) -> usize {
        assert!(document < self.documents, "document {document} of {}", self.documents);
        let at = self.entries_start + ENTRY_BYTES * document + 8 * which;
        u64::from_le_bytes(self.payload()[at..at + 8].try_into().expect("invariant: 8 bytes")) as usize
    }

    /// A document's ids as stored.
    fn document_ids(&self, document: usize) -> &[u8] {
        let width = self.width.bytes();
        let (start, length) = (self.number(document, 0), self.document(document).len());
        let (bytes, start) = match &self.ids {
            Ids::Own => (&self.payload()[..self.entries_start], start),
            Ids::Files(files) => {
                let (first, file) = &files[files.partition_point(|(first, _)| *first <= start) - 1];
                (&file[..], start - first)
            }
        };
        &bytes[start * width..(start + length) * width]
    }
}

/// Tokens one after the other; after the last comes the first.
pub(crate) struct Walk<'a> {
    tokens: &'a Tokens,
    document: usize,
    ids: &'a [u8],
    place: usize,
}

impl Walk<'_> {
    /// The next token and whether a document starts with it.
    pub fn next(&mut self) -> (u32, bool) {
        if self.place * self.tokens.width.bytes() == self.ids.len() {
            self.document = (self.document + 1) % self.tokens.documents;
            self.ids = self.tokens.document_ids(self.document);
            self.place = 0;
        }
        let id = self.tokens.width.id(self.ids, self.place);
        self.place += 1;
        (id, self.place == 1)
    }
}

/// Tokens or borders being written to the cache, in memory that does not grow with them.
pub(crate) struct TokenWriter {
    payload: SealedWriter,
    /// Entries, which follow the tokens in the end.
    entries: BufWriter<File>,
    width: TokenWidth,
    documents: u64,
    tokens: u64,
}

impl TokenWriter {
    pub fn create(path: &Path, width: TokenWidth) -> io::Result<TokenWriter> {
        let payload = SealedWriter::create(path)?;
        let folder = path.parent().expect("invariant: a cache file lies in the cache folder");
        let entries = BufWriter::with_capacity(1 << 16, tempfile::tempfile_in(folder)?);
        Ok(TokenWriter { payload, entries, width, documents: 0, tokens: 0 })
    }

    /// A document's ids, its end-of-text token last, and the bytes of its text.
    pub fn push(&mut self, ids: &[u32], bytes: u64) -> io::Result<()> {
        for id in ids {
            match self.width {
                TokenWidth::U16 => self.payload.write_all(&(*id as u16).to_le_bytes())?,
                TokenWidth::U32 => self.payload.write_all(&id.to_le_bytes())?,
            }
        }
        self.push_place(self.tokens, ids.len() as u64, bytes)
    }

    /// A document that lies elsewhere: its first token there, its number of tokens, and the bytes of its text.
    pub fn push_place(&mut self, start: u64, n_tokens: u64, bytes: u64) -> io::Result<()> {
        assert!(n_tokens > 0, "a document holds at least its end-of-text token");
        self.documents += 1;
        self.tokens += n_tokens;
        self.entries.write_all(&entry(start, self.tokens, bytes))
    }

    pub fn n_documents(&self) -> u64 {
        self.documents
    }

    /// Seals everything under `key`; `files` is the fingerprint of the files that hold the tokens, if they lie elsewhere.
    pub fn finish(mut self, key: &blake3::Hash, files: Option<&blake3::Hash>) -> io::Result<()> {
        let mut entries = self.entries.into_inner().map_err(io::IntoInnerError::into_error)?;
        entries.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match entries.read(&mut buffer)? {
                0 => break,
                n => self.payload.write_all(&buffer[..n])?,
            }
        }
        self.payload.write_all(&end_of_payload(files, self.width, self.documents, self.tokens))?;
        self.payload.finish(key)
    }
}

fn entry(start: u64, end: u64, bytes: u64) -> [u8; ENTRY_BYTES] {
    numbers([start, end, bytes])
}

fn end_of_payload(files: Option<&blake3::Hash>, width: TokenWidth, documents: u64, tokens: u64) -> Vec<u8> {
    let files = files.map_or([0; 32], |files| *files.as_bytes());
    [&files[..], &numbers([width.bytes() as u64, documents, tokens])].concat()
}

fn numbers(numbers: [u64; 3]) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
    bytes
}
