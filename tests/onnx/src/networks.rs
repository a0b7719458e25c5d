//! Networks with seeded random weights, as large as real ones.

use berth_tensor::DataType;

use crate::encode::{Message, constant, external, graph, integer, integers, model, node, port};

/// `y = relu(x · w1) · w2`, FP32 [n, 64] to [n, 10]: a perceptron of 64, 64 and 10 units. Each
/// seed has weights of its own.
pub fn perceptron(seed: u64) -> Vec<u8> {
    dense(seed, &[64, 64, 10])
}

/// A perceptron with so many units in each layer, FP32 [n, first] to [n, last].
pub fn dense(seed: u64, units: &[i64]) -> Vec<u8> {
    let mut network = Network::new(seed);
    network.layers("x", units);
    let ends = [units[0], units[units.len() - 1]];
    network.into_model(&[-1, ends[0]], ends[1])
}

/// The same with its weights in a file beside it, called `file`; answers the model and that file.
pub fn dense_beside(seed: u64, units: &[i64], file: &str) -> (Vec<u8>, Vec<u8>) {
    let mut network = Network::new(seed);
    network.beside = Some((file.to_owned(), Vec::new()));
    network.layers("x", units);
    let weights = network.beside.take().map(|(_, weights)| weights).unwrap_or_default();
    let ends = [units[0], units[units.len() - 1]];
    (network.into_model(&[-1, ends[0]], ends[1]), weights)
}

/// A perceptron behind a table of so many rows, INT64 [n] to FP32 [n, last]. A number beyond the table
/// fails the run.
pub fn lookup(seed: u64, rows: i64, units: &[i64]) -> Vec<u8> {
    let mut network = Network::new(seed);
    network.scaled("table", &[rows, units[0]], 1.0);
    network.nodes.push(node("Gather", &["table", "ids"], &["x"]));
    network.layers("x", units);
    let (ids, y) = (
        port("ids", DataType::Int64, &[-1]),
        port("y", DataType::Fp32, &[-1, units[units.len() - 1]]),
    );
    model(graph(&network.nodes, &network.constants, &[ids], &[y]))
}

/// The mean of each channel, through one small layer: FP32 [n, 3, 224, 224] to 10 scores. Next to
/// nothing beside what it takes to decode a picture.
pub fn mean_colour() -> Vec<u8> {
    let mut network = Network::new(2);
    network.nodes.push(node("GlobalAveragePool", &["x"], &["mean"]));
    network.classify("mean", 3, 10);
    network.into_model(&[-1, 3, 224, 224], 10)
}

/// ResNet-18 (He and others, 2015) with the batch normalisations folded into the convolutions, as
/// exporters do: FP32 [n, 3, 224, 224] to 1,000 scores.
pub fn resnet18() -> Vec<u8> {
    let mut network = Network::new(3);
    network.convolve("x", "stem", (3, 64), 7, 2);
    network.nodes.push(node("Relu", &["stem"], &["stem.relu"]));
    let pool = node("MaxPool", &["stem.relu"], &["pool"]);
    let pool = integers(pool, "kernel_shape", &[3, 3]);
    network.nodes.push(integers(integers(pool, "strides", &[2, 2]), "pads", &[1; 4]));
    let (mut from, mut channels) = ("pool".to_owned(), 64);
    for (stage, width) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("stage{stage}.{block}");
            from = network.block(&from, &name, (channels, width), stride);
            channels = width;
        }
    }
    network.nodes.push(node("GlobalAveragePool", &[&from], &["mean"]));
    network.classify("mean", 512, 1000);
    network.into_model(&[-1, 3, 224, 224], 1000)
}

/// A network under construction. It takes `x` and answers `y`.
struct Network {
    nodes: Vec<Message>,
    constants: Vec<Message>,
    /// The file beside it that has its weights, if they are not in its own.
    beside: Option<(String, Vec<u8>)>,
    state: u64,
}

impl Network {
    fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), constants: Vec::new(), beside: None, state: seed }
    }

    /// SplitMix64: the next number of the seed's sequence, from -1 to 1.
    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Adds weights that keep the variance of `fan_in` inputs after a rectifier (He and others).
    fn weights(&mut self, name: &str, shape: &[i64], fan_in: usize) {
        let scale = (6.0 / fan_in as f32).sqrt();
        self.scaled(name, shape, scale);
    }

    fn scaled(&mut self, name: &str, shape: &[i64], scale: f32) {
        let count = shape.iter().product::<i64>();
        let data: Vec<u8> = (0..count).flat_map(|_| (self.next() * scale).to_le_bytes()).collect();
        self.constants.push(match &mut self.beside {
            None => constant(name, DataType::Fp32, shape, &data),
            Some((file, weights)) => {
                let place = (&**file, weights.len(), data.len());
                weights.extend_from_slice(&data);
                external(name, DataType::Fp32, shape, place)
            }
        });
    }

    /// Adds dense layers from `from` to `y`, rectified but for the last.
    fn layers(&mut self, from: &str, units: &[i64]) {
        let mut from = from.to_owned();
        let last = units.len() - 1;
        for (layer, sizes) in units.windows(2).enumerate().map(|(at, sizes)| (at + 1, sizes)) {
            let weight = format!("w{layer}");
            self.weights(&weight, sizes, sizes[0] as usize);
            let sum = if layer == last { "y".to_owned() } else { format!("sum{layer}") };
            self.nodes.push(node("MatMul", &[&from, &weight], &[&sum]));
            from = format!("layer{layer}");
            if layer < last {
                self.nodes.push(node("Relu", &[&sum], &[&from]));
            }
        }
    }

    /// Adds a square convolution from one number of channels to another, with its bias; its
    /// output has its name.
    fn convolve(&mut self, from: &str, name: &str, channels: (i64, i64), size: i64, stride: i64) {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let fan_in = (channels.0 * size * size) as usize;
        self.weights(&weight, &[channels.1, channels.0, size, size], fan_in);
        self.scaled(&bias, &[channels.1], 0.1);
        let convolution = node("Conv", &[from, &weight, &bias], &[name]);
        let convolution = integers(convolution, "kernel_shape", &[size, size]);
        let convolution = integers(convolution, "strides", &[stride, stride]);
        self.nodes.push(integers(convolution, "pads", &[size / 2; 4]));
    }

    /// Adds two convolutions of size 3 beside a shortcut; answers the name of what they put out.
    fn block(&mut self, from: &str, name: &str, channels: (i64, i64), stride: i64) -> String {
        let [first, rectified, second, sum, out] =
            ["a", "a.relu", "b", "sum", "out"].map(|part| format!("{name}.{part}"));
        self.convolve(from, &first, channels, 3, stride);
        self.nodes.push(node("Relu", &[&first], &[&rectified]));
        self.convolve(&rectified, &second, (channels.1, channels.1), 3, 1);
        let mut shortcut = from.to_owned();
        if stride != 1 || channels.0 != channels.1 {
            shortcut = format!("{name}.shortcut");
            self.convolve(from, &shortcut, channels, 1, stride);
        }
        self.nodes.push(node("Add", &[&second, &shortcut], &[&sum]));
        self.nodes.push(node("Relu", &[&sum], &[&out]));
        out
    }

    /// Adds the last layer, from [n, channels, 1, 1] to `y`.
    fn classify(&mut self, from: &str, channels: i64, classes: i64) {
        self.weights("classes.weight", &[channels, classes], channels as usize);
        self.scaled("classes.bias", &[classes], 0.1);
        self.nodes.push(integer(node("Flatten", &[from], &["flat"]), "axis", 1));
        self.nodes.push(node("Gemm", &["flat", "classes.weight", "classes.bias"], &["y"]));
    }

    fn into_model(self, input: &[i64], classes: i64) -> Vec<u8> {
        let (x, y) = (port("x", DataType::Fp32, input), port("y", DataType::Fp32, &[-1, classes]));
        model(graph(&self.nodes, &self.constants, &[x], &[y]))
    }
}
