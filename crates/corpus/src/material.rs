//! One source on its way from files to tokens, in passes that hold a piece of it at a time.

use crate::cache::{self, Found};
use crate::corpus::{Content, CorpusOptions, ONLY_SOURCE, SourceOptions};
use crate::files::{Documents, files, no_text};
use crate::split::{Side, Split, Survey};
use crate::token_files::TokenFiles;
use crate::tokens::{TokenWidth, TokenWriter};
use crate::{Cached, CorpusError, Document, Result, Tokenizer, Tokens, embedded_documents};
use blake3::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

/// Part of the cache keys: a change of a payload, of the split or of what is encoded makes old files unknown.
const FORMAT: &str = "millstream corpus: tokens 3";

/// Text encoded at a time: enough to occupy all cores, little enough to bound the memory of encodings (about 100 bytes
/// a token).
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that are read ahead of the encoder.
const CHUNKS_AHEAD: usize = 2;

/// Text that a tokenizer is trained on: of more, a part is drawn. Merges settle long before, while the count of
/// distinct words, which is held in memory, goes on growing.
const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// A source whose files are known and hashed.
pub(crate) struct Material {
    pub name: String,
    pub weight: Option<f64>,
    origin: Origin,
    /// Of everything that decides its documents and their sides.
    digest: Hash,
    seed: u64,
    validation_fraction: f64,
    /// Which documents validate, and the size of all; of token files, only tokens tell.
    split: Option<(Split, u64)>,
}

enum Origin {
    Embedded,
    Text { files: Vec<PathBuf>, field: String },
    Tokens { files: Vec<PathBuf>, width: TokenWidth },
}

impl Material {
    /// The embedded text.
    pub fn embedded(options: &CorpusOptions) -> Result<Material> {
        let mut hasher = Hasher::new_derive_key(FORMAT);
        for document in embedded_documents() {
            hasher.update(&(document.text.len() as u64).to_le_bytes()).update(document.text.as_bytes());
        }
        Material::surveyed(ONLY_SOURCE, None, Origin::Embedded, hasher, options)
    }

    /// A source of files.
    pub fn new(source: &SourceOptions, options: &CorpusOptions) -> Result<Material> {
        let files = files(&source.paths)?;
        let mut hasher = Hasher::new_derive_key(FORMAT);
        let origin = match &source.content {
            Content::Text { field } => Origin::Text { files: files.clone(), field: field.clone() },
            Content::Tokens(width) => Origin::Tokens { files: files.clone(), width: *width },
        };
        hasher.update(format!("{:?}", source.content).as_bytes());
        for file in &files {
            let read = std::fs::File::open(file).and_then(|mut opened| cache::hash(&mut opened));
            let (hash, _) = read.map_err(|source| CorpusError::Read { path: file.clone(), source })?;
            // The end of its name says how a file is read.
            let extensions = file.file_name().unwrap_or_default().as_encoded_bytes().split(|&byte| byte == b'.');
            let extensions: Vec<&[u8]> = extensions.skip(1).collect();
            hasher.update(&extensions.concat()).update(hash.as_bytes());
        }
        let material = Material::surveyed(&source.name, source.weight, origin, hasher, options)?;
        match material.split.is_none() && matches!(source.content, Content::Text { .. }) {
            true => Err(no_text(&source.paths)),
            false => Ok(material),
        }
    }

    fn surveyed(
        name: &str,
        weight: Option<f64>,
        origin: Origin,
        mut hasher: Hasher,
        options: &CorpusOptions,
    ) -> Result<Material> {
        hasher.update(&options.seed.to_le_bytes()).update(&options.validation_fraction.to_le_bytes());
        let mut material = Material {
            name: name.to_owned(),
            weight,
            origin,
            digest: hasher.finalize(),
            seed: options.seed,
            validation_fraction: options.validation_fraction,
            split: None,
        };
        if !matches!(material.origin, Origin::Tokens { .. }) {
            material.split = material.survey(&options.cache_folder)?;
        }
        Ok(material)
    }

    /// The first pass, or what it found before: the split, and the bytes of all documents. `None` without a document.
    fn survey(&self, cache_folder: &Path) -> Result<Option<(Split, u64)>> {
        let path = cache_folder.join(format!("split-{}.bin", &self.digest.to_hex()[..16]));
        let unusable = |source| CorpusError::Cache { path: path.clone(), source };
        if let Found::Valid(sealed) = cache::open(&path, &self.digest).map_err(unusable)?
            && let Some((split, bytes)) = sealed.payload().split_at_checked(4)
            && let (Some(split), Ok(bytes)) = (Split::from_bytes(self.seed, split), bytes.try_into())
        {
            return Ok(Some((split, u64::from_le_bytes(bytes))));
        }
        let mut survey = Survey::new(self.seed);
        let mut bytes = 0;
        for document in self.documents() {
            let document = document?;
            survey.add(document.text.as_bytes());
            bytes += document.text.len() as u64;
        }
        if survey.n_documents() == 0 {
            return Ok(None);
        }
        let split = survey.split(self.validation_fraction)?;
        let payload = [&split.to_bytes()[..], &bytes.to_le_bytes()].concat();
        cache::write(&path, &self.digest, &payload).map_err(unusable)?;
        Ok(Some((split, bytes)))
    }

    /// All documents in order.
    fn documents(&self) -> AllDocuments {
        match &self.origin {
            Origin::Embedded => AllDocuments::Embedded(embedded_documents().into_iter()),
            Origin::Text { files, field } => AllDocuments::Files(Documents::new(files.clone(), field)),
            Origin::Tokens { .. } => AllDocuments::Embedded(Vec::new().into_iter()),
        }
    }

    /// Tokens of both sides, training first, from the cache in `folder` when it holds them, or made and put there.
    pub fn tokens(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<[(Tokens, Cached); 2]> {
        let sides = [Side::Train, Side::Validation].map(|side| self.side(side, tokenizer, folder));
        let mut opened = Vec::new();
        let mut missing = [None, None];
        for (side, missing) in sides.iter().zip(&mut missing) {
            let found = Tokens::open(&side.path, &side.key).map_err(|source| side.unusable(source))?;
            *missing = found.as_ref().err().copied();
            opened.push(found.ok());
        }
        if missing.iter().any(Option::is_some) {
            let mut writers = [None, None];
            for (at, side) in sides.iter().enumerate().filter(|(at, _)| missing[*at].is_some()) {
                let writer = TokenWriter::create(&side.path, self.width(tokenizer));
                writers[at] = Some(writer.map_err(|source| side.unusable(source))?);
            }
            match &self.origin {
                Origin::Tokens { files, width } => {
                    self.write_borders(files, *width, tokenizer, &sides, &mut writers)?
                }
                Origin::Embedded | Origin::Text { .. } => self.write_tokens(tokenizer, &sides, &mut writers)?,
            }
            for ((side, writer), opened) in sides.iter().zip(writers).zip(&mut opened) {
                let Some(writer) = writer else { continue };
                if writer.n_documents() == 0 {
                    return Err(CorpusError::Changed);
                }
                let files = matches!(self.origin, Origin::Tokens { .. }).then_some(&self.digest);
                writer.finish(&side.key, files).map_err(|source| side.unusable(source))?;
                let found = Tokens::open(&side.path, &side.key).map_err(|source| side.unusable(source))?;
                let not_read = |_| side.unusable(io::Error::other("the file does not read back as it was written"));
                *opened = Some(found.map_err(not_read)?);
            }
        }
        let mut tokens = opened
            .into_iter()
            .zip(missing)
            .map(|(tokens, missing)| (tokens.expect("invariant: found or written"), missing.unwrap_or(Cached::Read)));
        let mut next = || tokens.next().expect("invariant: two sides");
        let both = [next(), next()];
        match &self.origin {
            Origin::Tokens { files, width } => {
                let mapped = || TokenFiles::open(files, *width).map(TokenFiles::into_maps);
                let [(train, a), (validation, b)] = both;
                Ok([(train.with_files(mapped()?), a), (validation.with_files(mapped()?), b)])
            }
            Origin::Embedded | Origin::Text { .. } => Ok(both),
        }
    }

    fn side(&self, side: Side, tokenizer: &Tokenizer, folder: &Path) -> CachedSide {
        let mut hasher = Hasher::new_derive_key(FORMAT);
        hasher.update(self.digest.as_bytes()).update(&[side as u8]).update(tokenizer.to_json().as_bytes());
        hasher.update(&tokenizer.end_of_text().to_le_bytes());
        let key = hasher.finalize();
        let path = folder.join(format!("tokens-{}.bin", &key.to_hex()[..16]));
        CachedSide { key, path }
    }

    fn width(&self, tokenizer: &Tokenizer) -> TokenWidth {
        match self.origin {
            Origin::Tokens { width, .. } => width,
            Origin::Embedded | Origin::Text { .. } => TokenWidth::of(tokenizer.vocab_size()),
        }
    }

    /// Encodes the documents of the sides that have a writer. A thread reads and decompresses, all cores encode, this
    /// one writes, in the order of the text.
    fn write_tokens(
        &self,
        tokenizer: &Tokenizer,
        sides: &[CachedSide; 2],
        writers: &mut [Option<TokenWriter>; 2],
    ) -> Result<()> {
        let (split, _) = self.split.expect("invariant: surveyed");
        let wanted = [writers[0].is_some(), writers[1].is_some()];
        let encoder = tokenizer.document_encoder();
        let (sender, receiver) = sync_channel::<Result<Vec<(Side, String)>>>(CHUNKS_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut documents = self.documents();
                loop {
                    let chunk = chunk(&mut documents, split, wanted);
                    let is_last = chunk.as_ref().map_or(true, Vec::is_empty);
                    // A receiver that is gone has met an error of its own.
                    if sender.send(chunk).is_err() || is_last {
                        return;
                    }
                }
            });
            for chunk in receiver {
                let chunk = chunk?;
                let texts: Vec<&str> = chunk.iter().map(|(_, text)| text.as_str()).collect();
                let ids = encoder.encode(&texts)?;
                for ((side, text), ids) in chunk.iter().zip(ids) {
                    let at = usize::from(*side == Side::Validation);
                    let writer = writers[at].as_mut().expect("invariant: only wanted sides are sent");
                    writer.push(&ids, text.len() as u64).map_err(|source| sides[at].unusable(source))?;
                }
            }
            Ok(())
        })
    }

    /// Finds the documents of token files, checks every id, and writes where the documents of each side lie.
    fn write_borders(
        &self,
        files: &[PathBuf],
        width: TokenWidth,
        tokenizer: &Tokenizer,
        sides: &[CachedSide; 2],
        writers: &mut [Option<TokenWriter>; 2],
    ) -> Result<()> {
        let files = TokenFiles::open(files, width)?;
        let mut survey = Survey::new(self.seed);
        files.documents(tokenizer, |_, ids, _| {
            survey.add(ids);
            Ok(())
        })?;
        let split = survey.split(self.validation_fraction)?;
        files.documents(tokenizer, |start, ids, bytes| {
            let at = usize::from(split.side(ids) == Side::Validation);
            let Some(writer) = &mut writers[at] else { return Ok(()) };
            let n_tokens = (ids.len() / width.bytes()) as u64;
            writer.push_place(start, n_tokens, bytes).map_err(|source| sides[at].unusable(source))
        })
    }
}

/// Where a side's tokens are cached.
struct CachedSide {
    key: Hash,
    path: PathBuf,
}

impl CachedSide {
    fn unusable(&self, source: io::Error) -> CorpusError {
        CorpusError::Cache { path: self.path.clone(), source }
    }
}

/// Documents of a text, wherever it is.
enum AllDocuments {
    Embedded(std::vec::IntoIter<Document>),
    Files(Documents),
}

impl Iterator for AllDocuments {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        match self {
            AllDocuments::Embedded(documents) => documents.next().map(Ok),
            AllDocuments::Files(documents) => documents.next(),
        }
    }
}

/// The next documents of the wanted sides; empty at the end.
fn chunk(documents: &mut AllDocuments, split: Split, wanted: [bool; 2]) -> Result<Vec<(Side, String)>> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK_BYTES
        && let Some(document) = documents.next()
    {
        let text = document?.text;
        let side = split.side(text.as_bytes());
        if wanted[usize::from(side == Side::Validation)] {
            bytes += text.len();
            chunk.push((side, text));
        }
    }
    Ok(chunk)
}

/// The tokenizer trained on the sources' training documents, from the cache when it was trained before.
pub(crate) fn train_tokenizer(materials: &[Material], vocab_size: usize, options: &CorpusOptions) -> Result<Tokenizer> {
    if let Some(ids) = materials.iter().find(|material| matches!(material.origin, Origin::Tokens { .. })) {
        return Err(CorpusError::TokensNeedTokenizer { name: ids.name.clone() });
    }
    let mut hasher = Hasher::new_derive_key("millstream corpus: byte-level BPE tokenizer 2");
    hasher.update(&(vocab_size as u64).to_le_bytes());
    for material in materials {
        hasher.update(material.digest.as_bytes());
    }
    let key = hasher.finalize();
    let path = options.cache_folder.join(format!("tokenizer-{}.bin", &key.to_hex()[..16]));
    let unusable = |source| CorpusError::Cache { path: path.clone(), source };
    if let Found::Valid(sealed) = cache::open(&path, &key).map_err(unusable)? {
        let json = std::str::from_utf8(sealed.payload()).expect("invariant: sealed as text");
        return Tokenizer::from_json(json, "the cache");
    }
    let bytes: u64 = materials.iter().filter_map(|material| material.split).map(|(_, bytes)| bytes).sum();
    let share = TOKENIZER_BYTES_MAX as f64 / bytes as f64;
    let mut failure = None;
    let texts = materials.iter().flat_map(|material| {
        let (split, _) = material.split.expect("invariant: surveyed");
        let is_wanted = move |text: &[u8]| split.side(text) == Side::Train && (share >= 1.0 || is_drawn(text, share));
        material
            .documents()
            .filter(move |document| document.as_ref().map_or(true, |document| is_wanted(document.text.as_bytes())))
    });
    let texts = texts.map_while(|document| match document {
        Ok(document) => Some(document.text),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let trained = Tokenizer::train_on(texts, vocab_size);
    if let Some(error) = failure {
        return Err(error);
    }
    let tokenizer = trained?;
    cache::write(&path, &key, tokenizer.to_json().as_bytes()).map_err(unusable)?;
    Ok(tokenizer)
}

/// Whether a document is among the `share` of all that a tokenizer is trained on, by its content alone.
fn is_drawn(text: &[u8], share: f64) -> bool {
    let mut hasher = Hasher::new_derive_key("millstream corpus: documents for the tokenizer");
    let hash = hasher.update(text).finalize();
    let draw = u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("invariant: 32 bytes"));
    (draw as f64) < share * 2f64.powi(64)
}
