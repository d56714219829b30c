//! Documents to ids, many at a time.

use crate::tokenizer::encoding_failed;
use crate::upstream::caught;
use crate::{Result, Tokenizer};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use tokenizers::{Model, ModelWrapper, PreTokenizerWrapper};

/// Encodes documents: begin of text where the tokenizer's template has one, the text, end of text. A special token
/// written out in a text is text: one polluted file must not end documents in their middle.
#[derive(Debug)]
pub struct DocumentEncoder {
    plain: tokenizers::Tokenizer,
    begin_of_text: Option<u32>,
    end_of_text: u32,
    words: Option<Words>,
}

/// Documents that a thread encodes before it gives its words back.
const DOCUMENTS_AT_A_TIME: usize = 8;

impl DocumentEncoder {
    pub(crate) fn new(tokenizer: &Tokenizer, inner: &tokenizers::Tokenizer) -> DocumentEncoder {
        let mut plain = inner.clone();
        plain.set_encode_special_tokens(true);
        let words = Words::of(&plain);
        DocumentEncoder { plain, begin_of_text: tokenizer.begin_of_text(), end_of_text: tokenizer.end_of_text(), words }
    }

    /// The ids of each text, on all cores; the same whatever their number.
    ///
    /// # Errors
    /// The tokenizer fails, for instance on a text that it cannot represent.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let Some(words) = &self.words else {
            let encodings = caught(|| self.plain.encode_batch_fast(texts.to_vec(), false)).map_err(encoding_failed)?;
            return Ok(encodings.into_iter().map(|encoding| self.document(encoding.get_ids())).collect());
        };
        let chunks = texts.par_chunks(DOCUMENTS_AT_A_TIME).map(|texts| {
            let mut known = words.take();
            let mut ids = Vec::new();
            let encode = |text: &&str| {
                ids.clear();
                caught(|| words.encode(text, self.plain.get_model(), &mut known, &mut ids)).map_err(encoding_failed)?;
                Ok(self.document(&ids))
            };
            let documents = texts.iter().map(encode).collect::<Result<Vec<_>>>();
            words.give_back(known);
            documents
        });
        Ok(chunks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn document(&self, ids: &[u32]) -> Vec<u32> {
        self.begin_of_text.into_iter().chain(ids.iter().copied()).chain([self.end_of_text]).collect()
    }
}

/// The short way through a byte-level tokenizer of GPT-2's kind: a word's ids depend on the word alone, and text is made
/// of words that come again. Cuts words as the tokenizer does and asks its model only for new ones: 10 times as fast
/// as the whole pipeline, which keeps track of where every character came from.
#[derive(Debug)]
struct Words {
    /// GPT-2's pattern but for `\s+(?!\S)`, which is done by hand.
    pattern: regex::Regex,
    /// How each byte is spelled in the vocabulary.
    spelling: [char; 256],
    /// Of the threads that are not encoding.
    known: Mutex<Vec<Known>>,
}

/// Ids of words that were met.
#[derive(Debug, Default)]
struct Known {
    places: HashMap<Box<str>, Range<usize>>,
    ids: Vec<u32>,
}

/// Words that a thread remembers, and their longest: 65,536 of 100 bytes with their keys take 7 MB. Full, it starts anew.
const WORDS_MAX: usize = 1 << 16;
const WORD_BYTES_MAX: usize = 64;

impl Words {
    /// `None` for any other tokenizer.
    fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Words> {
        let bytes = match tokenizer.get_pre_tokenizer()? {
            PreTokenizerWrapper::ByteLevel(bytes) => bytes.use_regex && !bytes.add_prefix_space,
            _ => false,
        };
        let merges = match tokenizer.get_model() {
            ModelWrapper::BPE(bpe) => {
                bpe.dropout.is_none() && bpe.continuing_subword_prefix.is_none() && bpe.end_of_word_suffix.is_none()
            }
            _ => false,
        };
        // Special tokens are text in a document; others would be looked for before words are.
        let added = tokenizer.get_added_tokens_decoder().values().any(|token| !token.special);
        if !bytes || !merges || added || tokenizer.get_normalizer().is_some() {
            return None;
        }
        let pattern = regex::Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+");
        Some(Words {
            pattern: pattern.expect("invariant: a sound pattern"),
            spelling: spelling(),
            known: Mutex::new(Vec::new()),
        })
    }

    fn take(&self) -> Known {
        self.known.lock().expect("invariant: nothing panics with the lock").pop().unwrap_or_default()
    }

    fn give_back(&self, known: Known) {
        self.known.lock().expect("invariant: nothing panics with the lock").push(known);
    }

    fn encode(
        &self,
        text: &str,
        model: &ModelWrapper,
        known: &mut Known,
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let mut start = 0;
        while start < text.len() {
            let rest = &text[start..];
            start = text.len();
            for found in self.pattern.find_iter(rest) {
                let word = found.as_str();
                let last = word.chars().next_back().expect("invariant: no alternative matches nothing");
                let space_bytes = last.len_utf8();
                // White space ends before its last character when a word follows, which may begin with it.
                if last.is_whitespace() && found.end() < rest.len() && word.len() > space_bytes {
                    self.word(&word[..word.len() - space_bytes], model, known, ids)?;
                    start = text.len() - rest.len() + found.end() - space_bytes;
                    break;
                }
                self.word(word, model, known, ids)?;
            }
        }
        Ok(())
    }

    fn word(&self, word: &str, model: &ModelWrapper, known: &mut Known, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        if let Some(place) = known.places.get(word) {
            ids.extend_from_slice(&known.ids[place.clone()]);
            return Ok(());
        }
        let spelled: String = word.bytes().map(|byte| self.spelling[usize::from(byte)]).collect();
        let tokens = model.tokenize(&spelled)?;
        ids.extend(tokens.iter().map(|token| token.id));
        if word.len() <= WORD_BYTES_MAX {
            if known.places.len() == WORDS_MAX {
                *known = Known::default();
            }
            let start = known.ids.len();
            known.ids.extend(tokens.iter().map(|token| token.id));
            known.places.insert(word.into(), start..known.ids.len());
        }
        Ok(())
    }
}

/// GPT-2's letters for bytes: printable ones stand for themselves, the others for the letters from `U+0100` on.
fn spelling() -> [char; 256] {
    let mut others = 0x100..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => others.next().and_then(char::from_u32).expect("invariant: 68 letters from U+0100 on"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, embedded_documents};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    /// The short way gives the ids of the long way, on text and on anything else.
    #[test]
    fn words_are_what_the_tokenizer_finds() {
        let documents: Vec<Document> = embedded_documents().into_iter().step_by(23).collect();
        let tokenizer = Tokenizer::train(&documents, 701).unwrap();
        let encoder = tokenizer.document_encoder();
        assert!(encoder.words.is_some());
        let pieces = [
            "a",
            "Z",
            "the",
            "don't",
            "'s",
            "'",
            "''ll",
            "I've",
            "1",
            "23",
            "½",
            "Ⅷ",
            "٣",
            " ",
            "  ",
            "   ",
            "\n",
            "\n\n",
            "\r\n",
            "\t",
            "\u{a0}",
            "\u{2003}",
            "\u{85}",
            "\u{200b}",
            "\u{feff}",
            "é",
            "e\u{301}",
            "ß",
            "日本",
            "の",
            "ー",
            "한",
            "ไทย",
            "क्षि",
            "ـ",
            "🦀",
            "👩‍👩‍👧",
            "—",
            "…",
            "(",
            "!!",
            "_",
            "<|endoftext|>",
            "</s>",
            "\0",
            "\u{7f}",
            "ǅ",
            "ª",
            "ℵ",
            "𝔘",
            "ⓐ",
            "\u{345}",
        ];
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut below = |bound: usize| (random.next_u64() % bound as u64) as usize;
        let mut texts: Vec<String> = documents.into_iter().map(|document| document.text).collect();
        texts.extend((0..3000).map(|_| (0..below(24)).map(|_| pieces[below(pieces.len())]).collect()));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let long = DocumentEncoder { words: None, ..tokenizer.document_encoder() };
        for (text, (short, long)) in
            texts.iter().zip(encoder.encode(&texts).unwrap().into_iter().zip(long.encode(&texts).unwrap()))
        {
            assert_eq!(short, long, "{text:?}");
        }
    }

    #[test]
    fn other_tokenizers_go_the_long_way() {
        let path: std::path::PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/llama-like.json"].iter().collect();
        assert!(Tokenizer::from_file(&path).unwrap().document_encoder().words.is_none());
    }
}
