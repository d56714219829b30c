//! A whole model that continues texts.

use crate::writer::Writer;
use crate::{Result, Sampler, ScoredToken, ServeError};
use architecture::{Architecture, Weight};
use burn::tensor::{Device, Tensor};
use checkpoint::Folder;
use corpus::Tokenizer;
use model::{Cache, Part, Rows};
use packed::Format;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

/// A model on one device, with its tokenizer if it has one.
#[derive(Debug)]
pub struct Generator {
    part: Part,
    tokenizer: Option<Tokenizer>,
    end_ids: Vec<u32>,
}

/// Tokens to draw that keys and values get room for beforehand. More take more when they come to it: a text that may be long
/// is mostly ended by its end.
const ROOM: usize = 1024;

/// How to continue a text.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so many tokens are drawn.
    pub tokens_max: usize,
    /// How they are drawn.
    pub sampler: Sampler,
    /// Strings that end the text and are not part of it.
    pub stop: Vec<String>,
    /// How many of the likeliest tokens to tell beside each drawn one, with log-probabilities; `None` tells none, and
    /// nothing of the drawn ones either.
    pub alternatives: Option<usize>,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Its text, without special tokens and the stop string.
    pub text: String,
    /// Tokens drawn, with those of the end or the stop string.
    pub n_tokens: usize,
    /// These tokens, where [`Options::alternatives`] asks for them.
    pub tokens: Vec<ScoredToken>,
    /// Why it ended.
    pub reason: Stop,
}

/// A continuation in ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedIds {
    /// The tokens drawn, the end token included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub reason: Stop,
}

/// Why a continuation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This end token was drawn.
    EndOfText(u32),
    /// This stop string was written.
    StopString(String),
    /// As many tokens were drawn as asked for.
    TokensMax,
    /// Prompt and continuation fill the model's `max_position_embeddings`.
    PositionsMax,
}

impl Generator {
    /// The model of a Hugging Face folder. Its end tokens are those of `config.json` and `generation_config.json`.
    ///
    /// # Errors
    /// Everything that is wrong with the folder's files ([`checkpoint::read_folder`]), and an unusable `tokenizer.json`;
    /// none is no error until text is asked for.
    pub fn open(folder: &Path, device: &Device) -> Result<Generator> {
        let (folder, architecture, tokenizer) = read(folder)?;
        Ok(Generator::new(&architecture, tokenizer, device, |weight| folder.read(weight))?)
    }

    /// As [`Generator::open`], on the CPU with matrices packed as `format`: a drawn token costs one reading of them.
    ///
    /// # Errors
    /// As [`Generator::open`], and weights that the format cannot hold.
    pub fn open_packed(folder: &Path, format: Format) -> Result<Generator> {
        let (folder, architecture, tokenizer) = read(folder)?;
        Generator::packed(&architecture, tokenizer, format, |weight| Ok(folder.read(weight)?))
    }

    /// A model with weights from `weights`, each asked for once. Where the architecture names no end token, the
    /// tokenizer's end of text is it.
    ///
    /// # Errors
    /// What `weights` gives.
    ///
    /// # Panics
    /// When `weights` gives a number of values that is not the weight's.
    pub fn new<E>(
        architecture: &Architecture,
        tokenizer: Option<Tokenizer>,
        device: &Device,
        weights: impl FnMut(&Weight) -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<Generator, E> {
        let part = Part::new(architecture, &architecture.blocks(), device, weights)?;
        Ok(Generator::of(part, tokenizer))
    }

    /// As [`Generator::new`], on the CPU with matrices packed as `format`.
    ///
    /// # Errors
    /// What `weights` gives, and weights that the format cannot hold.
    ///
    /// # Panics
    /// As [`Generator::new`].
    pub fn packed(
        architecture: &Architecture,
        tokenizer: Option<Tokenizer>,
        format: Format,
        weights: impl FnMut(&Weight) -> Result<Vec<f32>>,
    ) -> Result<Generator> {
        Ok(Generator::of(Part::packed(architecture, format, weights)?, tokenizer))
    }

    fn of(part: Part, tokenizer: Option<Tokenizer>) -> Self {
        let end_ids = match part.architecture().eos_token_id.as_slice() {
            [] => tokenizer.iter().map(Tokenizer::end_of_text).collect(),
            ids => ids.to_vec(),
        };
        Self { part, tokenizer, end_ids }
    }

    /// The model.
    pub fn architecture(&self) -> &Architecture {
        self.part.architecture()
    }

    /// Text to ids and back.
    ///
    /// # Errors
    /// [`ServeError::NoTokenizer`] when the model came without.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or(ServeError::NoTokenizer)
    }

    /// Continues `prompt` and hands each finished piece of text to `on_text`; pieces never cut a character and add up to
    /// the result's text. The prompt is read as the start of a document: an empty one is the token before its first.
    ///
    /// # Errors
    /// As [`Generator::generate_from_ids`], and a prompt that the tokenizer cannot represent.
    pub fn generate(&self, prompt: &str, options: &Options, on_text: impl FnMut(&str)) -> Result<Generated> {
        self.generate_from_ids(&self.prompt_ids(prompt)?, options, on_text)
    }

    /// The ids of a prompt as [`Generator::generate`] reads it.
    ///
    /// # Errors
    /// No tokenizer, and a prompt that it cannot represent.
    pub fn prompt_ids(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        Ok(match prompt {
            "" => vec![tokenizer.start_of_document()],
            text => tokenizer.begin_of_text().into_iter().chain(tokenizer.encode(text)?).collect(),
        })
    }

    /// As [`Generator::generate`], from token ids, to which nothing is added.
    ///
    /// # Errors
    /// No tokenizer, an empty stop string, and as [`Generator::generate_ids`].
    pub fn generate_from_ids(
        &self,
        prompt: &[u32],
        options: &Options,
        mut on_text: impl FnMut(&str),
    ) -> Result<Generated> {
        let mut all = self.generate_several(prompt, std::slice::from_ref(options), |_, piece| on_text(piece))?;
        Ok(all.remove(0))
    }

    /// As [`Generator::generate_from_ids`], one continuation for each of `all`; `on_text` is told its number, counted from
    /// 0. They are drawn together, so that the prompt and every weight are read once for all. Each is what it would be
    /// alone: up to 8 with packed weights to the bit, else but for rounding.
    ///
    /// # Errors
    /// As [`Generator::generate_from_ids`].
    pub fn generate_several(
        &self,
        prompt: &[u32],
        all: &[Options],
        on_text: impl FnMut(usize, &str),
    ) -> Result<Vec<Generated>> {
        let on_text = &RefCell::new(on_text);
        let mut written = Vec::new();
        for (n, options) in all.iter().enumerate() {
            let on_piece = move |piece: &str| (on_text.borrow_mut())(n, piece);
            written.push((Writer::new(self.tokenizer()?, prompt, &options.stop, on_piece)?, Vec::new()));
        }
        let requests: Vec<Request> = all
            .iter()
            .map(|Options { tokens_max, sampler, .. }| Request { tokens_max: *tokens_max, sampler })
            .collect();
        let ends = self.draw(prompt, &requests, |n, id, logits| {
            let (writer, tokens) = &mut written[n];
            tokens.extend(all[n].alternatives.map(|n| ScoredToken::of(id, logits, n)));
            // Some vocabularies do not mark their end tokens as special: they would be written out.
            let stop = if self.end_ids.contains(&id) { None } else { writer.push(id)? };
            Ok(stop.map_or(ControlFlow::Continue(()), |stop| ControlFlow::Break(Stop::StopString(stop))))
        })?;
        let ended = written.into_iter().zip(ends);
        let generated = ended.map(|((writer, tokens), (n_tokens, reason))| {
            let (text, stop) = writer.finish()?;
            Ok(Generated { text, n_tokens, tokens, reason: stop.map_or(reason, Stop::StopString) })
        });
        generated.collect()
    }

    /// Continues token ids by ids, of which `on_id` sees each as it is drawn, the end token too. The prompt is read at
    /// once, then one token at a time.
    ///
    /// # Errors
    /// A prompt that is empty, has an id outside the vocabulary, or is longer than `max_position_embeddings`; a model
    /// whose output is not finite.
    pub fn generate_ids(
        &self,
        prompt: &[u32],
        tokens_max: usize,
        sampler: &Sampler,
        mut on_id: impl FnMut(u32),
    ) -> Result<GeneratedIds> {
        let mut ids = Vec::new();
        let mut ends = self.draw(prompt, &[Request { tokens_max, sampler }], |_, id, _| {
            ids.push(id);
            on_id(id);
            Ok(ControlFlow::Continue(()))
        })?;
        let (_, reason) = ends.remove(0);
        Ok(GeneratedIds { ids, reason })
    }

    /// Logits of the token that follows each of `ids`.
    ///
    /// # Shapes
    /// - result: `[tokens, vocab_size]` in row-major order
    ///
    /// # Errors
    /// Ids that are empty, outside the vocabulary, or more than `max_position_embeddings`.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check_prompt(ids)?;
        Ok(values(self.part.logits(&Rows::to_read(signed(ids), ids.len()), &mut Cache::new())))
    }

    pub(crate) fn part(&self) -> &Part {
        &self.part
    }

    pub(crate) fn check_id(&self, id: u32) -> Result<()> {
        let vocab_size = self.architecture().vocab_size;
        if id as usize >= vocab_size { Err(ServeError::UnknownToken { id, vocab_size }) } else { Ok(()) }
    }

    pub(crate) fn check_length(&self, found: usize) -> Result<()> {
        let most = self.architecture().max_position_embeddings;
        if found > most { Err(ServeError::TooLong { found, most }) } else { Ok(()) }
    }

    /// As [`Generator::draw_all`], with the cores' threads kept awake where they compute.
    fn draw(
        &self,
        prompt: &[u32],
        requests: &[Request],
        on_id: impl FnMut(usize, u32, &[f32]) -> Result<ControlFlow<Stop>>,
    ) -> Result<Vec<(usize, Stop)>> {
        if *self.part.device() == Device::flex() {
            kernels::awake(|| self.draw_all(prompt, requests, on_id))
        } else {
            self.draw_all(prompt, requests, on_id)
        }
    }

    /// Draws tokens for each request until one ends its text, `on_id`, which sees each with the number of its request and
    /// the logits it was drawn from, asks for an end, or there is no room left: how many, and why no more. The prompt is
    /// read once, and the weights once for all texts' next tokens.
    fn draw_all(
        &self,
        prompt: &[u32],
        requests: &[Request],
        mut on_id: impl FnMut(usize, u32, &[f32]) -> Result<ControlFlow<Stop>>,
    ) -> Result<Vec<(usize, Stop)>> {
        self.check_prompt(prompt)?;
        let mut ends: Vec<_> = requests.iter().map(|request| (request.tokens_max, Stop::TokensMax)).collect();
        let mut texts = vec![prompt.to_vec(); requests.len()];
        // The texts that go on, each a row of the cache once the prompt is read.
        let mut open: Vec<usize> = (0..requests.len()).filter(|&text| requests[text].tokens_max > 0).collect();
        let most = requests.iter().map(|request| request.tokens_max).max().unwrap_or(0);
        let room = (prompt.len() + most.min(ROOM)).min(self.architecture().max_position_embeddings);
        let mut cache = Cache::with_room(room);
        let (mut unread, mut n) = (signed(prompt), 0);
        while !open.is_empty() {
            let (n_read, n_rows) = (cache.n_tokens(), if n == 0 { 1 } else { open.len() });
            let n_unread = unread.len() / n_rows;
            if n_read + n_unread == self.architecture().max_position_embeddings {
                open.iter().for_each(|&text| ends[text] = (n, Stop::PositionsMax));
                break;
            }
            let mut rows = Rows::to_read(unread, n_unread);
            rows.positions.iter_mut().for_each(|position| *position += n_read as i32);
            let logits = values(self.part.last_logits(&rows, &mut cache));
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err(ServeError::NotFinite { n_tokens: cache.n_tokens() });
            }
            let logits: Vec<&[f32]> = logits.chunks(self.architecture().vocab_size).collect();
            let (mut kept, mut kept_rows) = (Vec::new(), Vec::new());
            for (at, text) in open.into_iter().enumerate() {
                let row = if n == 0 { 0 } else { at };
                let id = requests[text].sampler.draw(logits[row], &texts[text], n as u64);
                texts[text].push(id);
                match on_id(text, id, logits[row])? {
                    ControlFlow::Break(stop) => ends[text] = (n + 1, stop),
                    ControlFlow::Continue(()) if self.end_ids.contains(&id) => {
                        ends[text] = (n + 1, Stop::EndOfText(id))
                    }
                    ControlFlow::Continue(()) if n + 1 == requests[text].tokens_max => {}
                    ControlFlow::Continue(()) => {
                        kept.push(text);
                        kept_rows.push(row);
                    }
                }
            }
            if !kept_rows.iter().copied().eq(0..n_rows) {
                cache = cache.with_rows(&kept_rows, self.part.device());
            }
            unread = kept.iter().flat_map(|&text| signed(&texts[text][texts[text].len() - 1..])).collect();
            (open, n) = (kept, n + 1);
        }
        Ok(ends)
    }

    fn check_prompt(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(ServeError::NoIds);
        }
        self.check_length(ids.len())?;
        ids.iter().try_for_each(|&id| self.check_id(id))
    }
}

/// One text to draw.
struct Request<'a> {
    tokens_max: usize,
    sampler: &'a Sampler,
}

/// A folder, its model with all end tokens, and its tokenizer.
fn read(folder: &Path) -> Result<(Folder, Architecture, Option<Tokenizer>)> {
    let folder = checkpoint::read_folder(folder)?;
    let tokenizer = folder.tokenizer_path().map(Tokenizer::from_file).transpose()?;
    let mut architecture = folder.architecture().clone();
    for &id in &folder.generation().eos_token_id {
        if !architecture.eos_token_id.contains(&id) {
            architecture.eos_token_id.push(id);
        }
    }
    Ok((folder, architecture, tokenizer))
}

fn signed(ids: &[u32]) -> Vec<i32> {
    ids.iter().map(|&id| i32::try_from(id).expect("invariant: vocabularies have under 2^31 ids")).collect()
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("invariant: logits are f32")
}
