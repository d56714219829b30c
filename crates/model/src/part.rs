//! A stage's share of a model.

use crate::visit::Visit;
use crate::{Cache, Parameter, Rows, Tape};
use architecture::{Architecture, Block, Role, Weight};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::{HEAD_CHUNK, HeadSpec};
use packed::{Format, Matrix, PackError};
use simulate::Category;
use std::collections::HashMap;

/// Consecutive blocks of a model with their parameters, on one device and in one thread.
#[derive(Debug)]
pub struct Part {
    architecture: Architecture,
    blocks: Vec<Block>,
    /// Blocks whose vocabulary matrix lies elsewhere.
    sharded: Vec<Block>,
    parameters: Vec<Parameter>,
    /// Numbers of the parameters by name.
    numbers: HashMap<String, usize>,
    /// Matrices of a part that is only read, `[out, in]`, by name; they are not among the parameters.
    packed: HashMap<String, Matrix>,
    device: Device,
    /// Of what blocks compute with; parameters are f32 whatever it is.
    dtype: DType,
}

/// What a part's forward gives.
#[derive(Debug)]
pub enum Output {
    /// The residual stream `[n, hidden_size]`, for the next part.
    Hidden(Tensor<2>),
    /// The final norm's output `[n, hidden_size]`, for the shards of the vocabulary: the part ends with a head whose
    /// matrix lies elsewhere.
    Normalised(Tensor<2>),
    /// The log-probability of every token's target `[n]`: the part ends with the head.
    LogProbability(Tensor<1>),
}

impl Part {
    /// A part with weights from `weights`, each asked for once.
    ///
    /// # Errors
    /// What `weights` gives.
    pub fn new<E>(
        architecture: &Architecture,
        blocks: &[Block],
        device: &Device,
        weights: impl FnMut(&Weight) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        Self::with_sharded_vocabulary(architecture, blocks, &[], device, weights)
    }

    /// As [`Part::new`], for a model in which the vocabulary matrices of the blocks `sharded` lie elsewhere: an embedding
    /// is handed what was looked up, a head stops after the final norm.
    ///
    /// # Errors
    /// What `weights` gives.
    pub fn with_sharded_vocabulary<E>(
        architecture: &Architecture,
        blocks: &[Block],
        sharded: &[Block],
        device: &Device,
        mut weights: impl FnMut(&Weight) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut parameters: Vec<Parameter> = Vec::new();
        for weight in blocks.iter().flat_map(|&block| architecture.weights_beside_shards(block, sharded)) {
            if parameters.iter().all(|known| known.weight.name != weight.name) {
                let values = weights(&weight)?;
                parameters.push(Parameter::new(weight, values, device));
            }
        }
        let (blocks, sharded) = (blocks.to_vec(), sharded.to_vec());
        Ok(Self::of(architecture, blocks, sharded, parameters, HashMap::new(), device))
    }

    /// A whole model that is only read, on the CPU: matrices are packed, and multiplied as they are. Products are those of
    /// the values that they stand for. Norms, biases and GPT-2's positions stay parameters.
    ///
    /// # Errors
    /// What `weights` gives, and weights that `format` cannot hold.
    pub fn packed<E: From<PackError>>(
        architecture: &Architecture,
        format: Format,
        mut weights: impl FnMut(&Weight) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let (mut parameters, mut packed, device) = (Vec::new(), HashMap::new(), Device::flex());
        let blocks = architecture.blocks();
        let tables = [Block::Embedding, Block::Head].map(|block| architecture.vocabulary_matrix(block));
        for weight in architecture.all_weights() {
            let values = weights(&weight)?;
            let is_table = tables.iter().flatten().any(|table| table.name == weight.name);
            let matrix = match (weight.role, &weight.shape[..]) {
                (Role::Matrix, &[out, n_in]) => Some(([out, n_in], values)),
                (Role::Embedding, &[ids, width]) if is_table => Some(([ids, width], values)),
                (Role::TransposedMatrix, &[n_in, out]) => {
                    Some(([out, n_in], (0..out * n_in).map(|i| values[i % n_in * out + i / n_in]).collect()))
                }
                _ => {
                    parameters.push(Parameter::new(weight.clone(), values, &device));
                    None
                }
            };
            if let Some((dims, values)) = matrix {
                let matrix = Matrix::pack(format, &weight.name, dims, values)?;
                kernels::hold_in_huge_pages(&matrix);
                packed.insert(weight.name, matrix);
            }
        }
        Ok(Self::of(architecture, blocks, Vec::new(), parameters, packed, &device))
    }

    fn of(
        architecture: &Architecture,
        blocks: Vec<Block>,
        sharded: Vec<Block>,
        parameters: Vec<Parameter>,
        packed: HashMap<String, Matrix>,
        device: &Device,
    ) -> Self {
        let numbers = parameters.iter().enumerate().map(|(n, known)| (known.weight.name.clone(), n)).collect();
        let (architecture, device) = (architecture.clone(), device.clone());
        Self { architecture, blocks, sharded, parameters, numbers, packed, device, dtype: DType::F32 }
    }

    /// The same part with blocks that compute in `dtype`, f32 or narrower: the residual stream and all that is multiplied
    /// are of it, and matrices are converted whenever they are used. Norms, softmax and activations are f32 inside, and
    /// log-probabilities f32 throughout. Parameters and the gradients of norms and biases are f32.
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// What blocks compute in.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The parameters, each name once.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters, for the optimizer.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The model this is a part of.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The packed matrix named `name`, of a part that has any.
    pub(crate) fn matrix(&self, name: &str) -> Option<&Matrix> {
        self.packed.get(name)
    }

    /// Whether the part has a parameter named `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of the embedding matrix among the parameters, if this part looks tokens up.
    pub fn embedding(&self) -> Option<usize> {
        // Matrices of a part that is only read are no parameters.
        let looks_up = self.packed.is_empty()
            && self.blocks.first() == Some(&Block::Embedding)
            && !self.sharded.contains(&Block::Embedding);
        looks_up.then_some(0)
    }

    /// The number of the parameter named `name`.
    ///
    /// # Panics
    /// When the part does not have it.
    pub(crate) fn index(&self, name: &str) -> usize {
        self.numbers.get(name).copied().unwrap_or_else(|| panic!("parameter {name} is in its part"))
    }

    /// Applies the blocks.
    ///
    /// # Shapes
    /// - hidden: `[n, hidden_size]`, plain; `None` when the part begins with an embedding of its own, which reads
    ///   `rows.ids`
    /// - result: see [`Output`], of the part's dtype; tracked when the tape records
    ///
    /// # Panics
    /// When `hidden` is missing or superfluous, or ids or targets lie outside the vocabulary; when the tape records and the
    /// part ends with a head of its own.
    pub fn forward(&self, rows: &Rows, hidden: Option<Tensor<2>>, tape: &mut Tape) -> Output {
        let hidden = self.apply(rows, hidden, tape, None);
        match self.blocks.last() {
            Some(Block::Head) if self.sharded.contains(&Block::Head) => {
                Output::Normalised(Visit::new(self, rows, tape, None).final_norm(hidden))
            }
            Some(Block::Head) => {
                assert!(!matches!(tape, Tape::Tracked(_)), "a head is not recorded: see Part::normalised");
                let x = Visit::new(self, rows, tape, None).final_norm(hidden);
                Output::LogProbability(self.log_probability(&x, &rows.targets))
            }
            _ => Output::Hidden(hidden),
        }
    }

    /// As [`Part::forward`] of a part that ends with a head of its own, but only to the final norm: what the head makes of
    /// it, the caller makes in chunks.
    ///
    /// # Shapes
    /// - result: `[n, hidden_size]`, of the part's dtype
    ///
    /// # Panics
    /// As [`Part::forward`].
    pub fn normalised(&self, rows: &Rows, hidden: Option<Tensor<2>>, tape: &mut Tape) -> Tensor<2> {
        let hidden = self.apply(rows, hidden, tape, None);
        Visit::new(self, rows, tape, None).final_norm(hidden)
    }

    /// Number of the head's matrix among the parameters, if this part ends with a head of its own.
    pub fn head_matrix(&self) -> Option<usize> {
        let has = self.blocks.last() == Some(&Block::Head) && !self.sharded.contains(&Block::Head);
        let matrix = self.architecture.vocabulary_matrix(Block::Head).filter(|_| has)?;
        Some(self.index(&matrix.name))
    }

    /// Log-probabilities of targets, in chunks: a row of a long context alone may have more logits than memory holds.
    fn log_probability(&self, x: &Tensor<2>, targets: &[i32]) -> Tensor<1> {
        let _logits = ledger::category(Category::Logits);
        if let Some(matrix) = self.architecture.vocabulary_matrix(Block::Head).and_then(|head| self.matrix(&head.name))
        {
            let of = |(chunk, targets): (usize, &[i32])| {
                let x = x.clone().narrow(0, chunk * HEAD_CHUNK, targets.len());
                let targets = Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &self.device);
                kernels::log_probability(kernels::packed_linear(x, matrix), targets)
            };
            return Tensor::cat(targets.chunks(HEAD_CHUNK).enumerate().map(of).collect(), 0);
        }
        let matrix = self.head_matrix().expect("invariant: a part with a head");
        let matrix = self.parameters[matrix].matrix();
        let found = kernels::head_log_probability(x, &matrix, targets, HeadSpec::default());
        Tensor::from_data(TensorData::new(found.of_target, [targets.len()]), &self.device)
    }

    /// Logits of a whole model, untracked, after what `cache` holds, to which the rows are added. `rows.positions`
    /// count from the first cached token.
    ///
    /// # Shapes
    /// - result: `[n, vocab_size]`
    ///
    /// # Panics
    /// When the part is not a whole model.
    pub fn logits(&self, rows: &Rows, cache: &mut Cache) -> Tensor<2> {
        let hidden = self.read(rows, cache);
        Visit::new(self, rows, &mut Tape::Untracked, None).head(hidden).cast(DType::F32)
    }

    /// As [`Part::logits`], of each row's last token only.
    ///
    /// # Shapes
    /// - result: `[n_rows, vocab_size]`
    ///
    /// # Panics
    /// As [`Part::logits`].
    pub fn last_logits(&self, rows: &Rows, cache: &mut Cache) -> Tensor<2> {
        let hidden = self.read(rows, cache);
        let [_, width] = hidden.dims();
        let last = hidden.reshape([rows.n_rows, rows.n_tokens, width]).narrow(1, rows.n_tokens - 1, 1);
        Visit::new(self, rows, &mut Tape::Untracked, None).head(last.reshape([rows.n_rows, width])).cast(DType::F32)
    }

    fn read(&self, rows: &Rows, cache: &mut Cache) -> Tensor<2> {
        assert_eq!(self.blocks.len(), self.architecture.blocks().len(), "a whole model");
        let hidden = self.apply(rows, None, &mut Tape::Untracked, Some(cache));
        cache.advance(rows.n_tokens);
        hidden
    }

    /// The blocks before the head.
    fn apply(&self, rows: &Rows, hidden: Option<Tensor<2>>, tape: &mut Tape, cache: Option<&mut Cache>) -> Tensor<2> {
        let table = self.architecture.vocabulary_matrix(Block::Embedding);
        let table = table.and_then(|table| self.matrix(&table.name));
        let source = match (table, self.embedding()) {
            (Some(table), _) => self.look_up(table, &rows.ids),
            (None, Some(table)) => {
                assert!(hidden.is_none(), "the embedding reads token ids");
                let ids: Tensor<1, Int> =
                    Tensor::from_data(TensorData::new(rows.ids.clone(), [rows.n()]), &self.device);
                self.parameters[table].matrix().select(0, ids)
            }
            (None, None) => hidden.expect("invariant: a part without embedding is handed the residual stream"),
        };
        let hidden = tape.source(source.cast(self.dtype));
        Visit::new(self, rows, tape, cache).apply(hidden)
    }

    /// The rows of the ids.
    fn look_up(&self, table: &Matrix, ids: &[i32]) -> Tensor<2> {
        let [_, width] = table.dims();
        let mut looked_up = vec![0.0; ids.len() * width];
        for (row, &id) in looked_up.chunks_mut(width).zip(ids) {
            table.unpack_row(usize::try_from(id).expect("ids are not negative"), row);
        }
        Tensor::from_data(TensorData::new(looked_up, [ids.len(), width]), &self.device)
    }
}
