//! The tokenizer: byte-level BPE trained here, any `tokenizer.json`, or a SentencePiece model.

use crate::sentencepiece::{self, BeginOfText};
use crate::tokenizer_config::{read, spelled, tokenizer_config};
use crate::upstream::{caught, check};
use crate::{CorpusError, Document, DocumentEncoder, Result, TextStream};
use serde_json::json;
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::ModelWrapper;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The end of a document, in vocabularies trained here.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Names of the end of text, looked for in this order where no `tokenizer_config.json` gives one.
const END_OF_TEXT_NAMES: [&str; 6] = [END_OF_TEXT, "</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<|im_end|>"];

/// Entries of a vocabulary trained here at most: memory for all of them is taken beforehand, and the largest published ones
/// have 900,000.
pub const VOCAB_SIZE_MAX: usize = 1 << 20;

/// Text to ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    vocab_size: usize,
    end_of_text: u32,
    begin_of_text: Option<u32>,
}

impl Tokenizer {
    /// Trains byte-level BPE (Sennrich et al. 2016, on bytes and with the word pattern of GPT-2) on `documents`.
    ///
    /// Id 0 is `<|endoftext|>`, ids 1 to 256 are the bytes. The vocabulary has `vocab_size` entries, or fewer where the
    /// text holds no further pair. Deterministic: equal documents give an equal `tokenizer.json`.
    ///
    /// # Errors
    /// A vocabulary of under 257 or more than 2^20 entries.
    pub fn train(documents: &[Document], vocab_size: usize) -> Result<Tokenizer> {
        Tokenizer::train_on(documents.iter().map(|document| document.text.as_str()), vocab_size)
    }

    /// As [`train`](Self::train), on texts that come one at a time and are not kept. The memory grows with their
    /// distinct words.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub fn train_on<S: AsRef<str> + Send>(
        texts: impl Iterator<Item = S> + Send,
        vocab_size: usize,
    ) -> Result<Tokenizer> {
        let alphabet = ByteLevel::alphabet();
        let least = alphabet.len() + 1;
        if vocab_size < least {
            return Err(CorpusError::VocabularySize { found: vocab_size, least });
        }
        if vocab_size > VOCAB_SIZE_MAX {
            return Err(CorpusError::VocabularyTooLarge { found: vocab_size, most: VOCAB_SIZE_MAX });
        }
        let mut trainer = TrainerWrapper::BpeTrainer(
            BpeTrainerBuilder::new()
                .vocab_size(vocab_size)
                .min_frequency(2)
                .show_progress(false)
                .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
                .initial_alphabet(alphabet.into_iter().collect())
                .build(),
        );
        let failed = |source| CorpusError::Tokenizer { doing: "training on the text", source };
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::default()));
        inner.train(&mut trainer, texts).map_err(failed)?;
        Tokenizer::from_json(&inner.to_string(false).map_err(failed)?, "the training text")
    }

    /// Loads a `tokenizer.json`, or with the ending `.model` a SentencePiece model; `eos_token` is taken from a
    /// `tokenizer_config.json` beside it, if there is one.
    ///
    /// # Errors
    /// A missing or unreadable file, one that is no tokenizer, or no known end of text.
    pub fn from_file(path: &Path) -> Result<Tokenizer> {
        let bytes = read(path)?.ok_or_else(|| CorpusError::Missing { path: path.to_owned() })?;
        let config = tokenizer_config(path.parent().unwrap_or(Path::new("")))?;
        let place = path.display().to_string();
        let named = spelled(&config["eos_token"]);
        if path.extension().is_some_and(|extension| extension == "model") {
            let begin = match config["add_bos_token"].as_bool() {
                Some(false) => BeginOfText::LeftOut,
                Some(true) | None => BeginOfText::Added,
            };
            return Tokenizer::parse_sentencepiece(&bytes, &place, named, begin);
        }
        let json = String::from_utf8(bytes)
            .map_err(|error| CorpusError::TokenizerFile { place: place.clone(), problem: error.to_string() })?;
        Tokenizer::parse(json, &place, named)
    }

    /// Converts a SentencePiece model, Unigram or BPE; `place` names its origin in errors. Encodes and decodes as the
    /// model does, but for two things: user-defined symbols of a BPE model split the text before it is normalised, and
    /// the `tokenizers` library applies the character map to user-perceived characters and not to the longest match.
    ///
    /// # Errors
    /// [`CorpusError::SentencePiece`] for bytes that are no such model, or one that cannot be converted.
    pub fn from_sentencepiece(bytes: &[u8], place: &str) -> Result<Tokenizer> {
        Tokenizer::parse_sentencepiece(bytes, place, None, BeginOfText::Added)
    }

    fn parse_sentencepiece(bytes: &[u8], place: &str, named: Option<String>, begin: BeginOfText) -> Result<Tokenizer> {
        let unusable = |problem| CorpusError::SentencePiece { place: place.to_owned(), problem };
        let (json, end) = sentencepiece::to_tokenizer_json(bytes, begin).map_err(unusable)?;
        Tokenizer::parse(json, place, named.or(end))
    }

    /// Loads the text of a `tokenizer.json`; `place` names its origin in errors.
    ///
    /// # Errors
    /// Text that is no tokenizer, or no known end of text in its vocabulary.
    pub fn from_json(json: &str, place: &str) -> Result<Tokenizer> {
        Tokenizer::parse(json.to_owned(), place, None)
    }

    /// The text of `tokenizer.json`, exactly as loaded or trained; `transformers` loads it.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// The text of a `tokenizer_config.json` with which `AutoTokenizer` of `transformers` loads a folder.
    pub fn to_config_json(&self) -> String {
        let name = |id| self.inner.id_to_token(id);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.start_of_document()),
            "eos_token": name(self.end_of_text),
            "clean_up_tokenization_spaces": false,
        });
        format!("{config:#}\n")
    }

    /// Ids run from 0 to this, excluded.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that ends a document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The token that this tokenizer's own template puts before a text, if it has one that is not the end of text.
    pub fn begin_of_text(&self) -> Option<u32> {
        self.begin_of_text
    }

    /// The token from which a document's first token is predicted: the begin of text, or the end of the one before.
    pub fn start_of_document(&self) -> u32 {
        self.begin_of_text.unwrap_or(self.end_of_text)
    }

    /// The ids of `text`, without begin and end. Special tokens written out in the text become their ids.
    ///
    /// # Errors
    /// The tokenizer fails, for instance on a text that it cannot represent.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = caught(|| self.inner.encode_fast(text, false)).map_err(encoding_failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of each text as a document: begin of text where the template has one, the text, end of text. Special
    /// tokens written out in a text are text here, unlike in [`encode`](Self::encode), which reads prompts.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_documents(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        self.document_encoder().encode(texts)
    }

    /// As [`encode_documents`](Self::encode_documents), for many calls.
    pub fn document_encoder(&self) -> DocumentEncoder {
        DocumentEncoder::new(self, &self.inner)
    }

    /// How text is cut into tokens: `BPE`, `Unigram`, `WordPiece` or `WordLevel`.
    pub fn algorithm(&self) -> &'static str {
        match self.inner.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        }
    }

    /// Special tokens by id.
    pub fn special_tokens(&self) -> Vec<(u32, String)> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special: Vec<(u32, String)> = special.map(|(&id, token)| (id, token.content.clone())).collect();
        special.sort_unstable();
        special
    }

    /// The spelling of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text of `ids`, special tokens left out; bytes that are no UTF-8 become `U+FFFD`.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(CorpusError::UnknownToken { id, vocab_size: self.vocab_size });
        }
        let failed = |source| CorpusError::Tokenizer { doing: "decoding ids", source };
        caught(|| self.inner.decode(ids, true)).map_err(failed)
    }

    /// Decodes ids one at a time, for a terminal or a socket.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// Bytes of text that each id stands for, by id; 0 for special tokens and ids without a token.
    ///
    /// Exact for byte-level vocabularies; for others, the token's own spelling with `▁` as a space.
    pub fn byte_lengths(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let byte_level = self.inner.get_decoder().is_some_and(is_byte_level);
        let length = |id: u32| match (added.get(&id), self.inner.id_to_token(id)) {
            (Some(token), _) if token.special => 0,
            (Some(token), _) => token.content.len(),
            (None, Some(token)) if byte_level => token.chars().count(),
            (None, Some(token)) if token.starts_with("<0x") && token.len() == 6 => 1,
            (None, Some(token)) => token.replace('▁', " ").len(),
            (None, None) => 0,
        };
        (0..self.vocab_size as u32).map(|id| length(id) as u32).collect()
    }

    fn parse(json: String, place: &str, named: Option<String>) -> Result<Tokenizer> {
        let unusable = |problem| CorpusError::TokenizerFile { place: place.to_owned(), problem };
        check(&json).map_err(unusable)?;
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(json.as_bytes()))
            .map_err(|error| unusable(error.to_string()))?;
        // Documents are encoded whole, whatever length the file's author had in mind.
        inner.with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        inner.with_padding(None);
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.ok_or_else(|| unusable("its vocabulary is empty".to_owned()))? as usize + 1;
        let end_of_text =
            named.as_deref().into_iter().chain(END_OF_TEXT_NAMES).find_map(|name| inner.token_to_id(name)).ok_or_else(
                || CorpusError::NoEndOfText {
                    place: place.to_owned(),
                    wanted: END_OF_TEXT_NAMES.map(str::to_owned).to_vec(),
                },
            )?;
        let template = caught(|| inner.encode_fast("", true)).map_err(|error| unusable(error.to_string()))?;
        let begin_of_text = template.get_ids().first().copied().filter(|&id| id != end_of_text);
        Ok(Tokenizer { inner, json, vocab_size, end_of_text, begin_of_text })
    }
}

/// `eos_token` of a `tokenizer_config.json`: a string, or an object with `content`.
fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(is_byte_level),
        _ => false,
    }
}

pub(crate) fn encoding_failed(source: tokenizers::Error) -> CorpusError {
    CorpusError::Tokenizer { doing: "encoding text", source }
}
