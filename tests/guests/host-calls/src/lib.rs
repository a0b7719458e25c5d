//! Processor that makes the host calls that the request's body encodes, past every type: the
//! words that it hands over are handles, addresses and lengths only if the body says so.
//!
//! A body is a program, and every byte string is one. An instruction is a byte: that of a row of
//! [`CALLS`] makes this call, [`PEEK`] and [`POKE`] move words, any other does nothing. Operands
//! follow, see [`Program::operand`]. The answer is the memory that the program worked on.

use berth_sdk::{ConfigError, Error, NoConfig, Processor, Reply, Request, Signature};

struct HostCalls;

impl Processor for HostCalls {
    type Config = NoConfig;

    fn create(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::default().takes_body("*/*")
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        let body = request.body();
        let mut program = Program::new(&body);
        while program.step() {}
        let memory = program.memory.iter().flat_map(|word| word.to_le_bytes());
        reply.write(memory.collect::<Vec<_>>())
    }
}

berth_sdk::export_processor!(HostCalls, roles: &["default"]);

/// Copies a word from an address into the memory: the word's number there, the address, bytes beyond.
const PEEK: u8 = 0xfe;
/// Writes a word of the memory: its number, its value.
const POKE: u8 = 0xff;

const WORDS: usize = 256;

struct Program<'a> {
    body: &'a [u8],
    memory: Box<[u32; WORDS]>,
    /// What the last calls gave back, latest first.
    results: [u32; 16],
}

impl<'a> Program<'a> {
    /// The memory begins with what calls need that succeed: the strings `default` (word 0), `x`
    /// (word 4) and `y` (word 8); the shape [2] in 32 bits (word 12) and 64 (word 16); two floats
    /// (word 20); a list of `x` and a handle yet to be set (word 24).
    fn new(body: &'a [u8]) -> Self {
        let mut memory = Box::new([0; WORDS]);
        memory[0] = u32::from_le_bytes(*b"defa");
        memory[1] = u32::from_le_bytes(*b"ult\0");
        (memory[4], memory[8]) = (u32::from(b'x'), u32::from(b'y'));
        (memory[12], memory[16]) = (2, 2);
        (memory[20], memory[21]) = (1f32.to_bits(), 2f32.to_bits());
        (memory[24], memory[25]) = (address(&memory[4]), 1);
        Self { body, memory, results: [0; 16] }
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.body.split_first() else { return 0 };
        self.body = rest;
        first
    }

    /// A word: below 64 the byte itself; below 128 the address of every fourth word of the memory;
    /// below 192 a word of the memory; below 208 the result of a call, 192 that of the last;
    /// else the four bytes that follow.
    fn operand(&mut self) -> u32 {
        let byte = self.byte();
        let index = usize::from(byte % 64);
        match byte {
            0..64 => u32::from(byte),
            64..128 => address(&self.memory[4 * index]),
            128..192 => self.memory[index],
            192..208 => self.results[index],
            _ => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
        }
    }

    /// Does the next instruction, or says that there is none.
    fn step(&mut self) -> bool {
        if self.body.is_empty() {
            return false;
        }
        match self.byte() {
            PEEK => {
                let (word, from, beyond) = (self.operand(), self.operand(), self.operand());
                let from = from.wrapping_add(beyond) as usize as *const u32;
                // SAFETY: none. An address outside this guest's memory traps, which is one of the
                // things to be seen; one inside gives some word of it.
                self.memory[word as usize % WORDS] = unsafe { std::ptr::read_unaligned(from) };
            }
            POKE => {
                let (word, value) = (self.operand(), self.operand());
                self.memory[word as usize % WORDS] = value;
            }
            call => {
                if let Some(call) = CALLS.get(usize::from(call)) {
                    let result = call(self);
                    self.results.rotate_right(1);
                    self.results[0] = result;
                }
            }
        }
        true
    }
}

fn address(word: &u32) -> u32 {
    std::ptr::from_ref(word) as usize as u32
}

/// What a call gives back: a word, or nothing.
trait Given {
    fn word(self) -> u32;
}

impl Given for () {
    fn word(self) -> u32 {
        0
    }
}

impl Given for i32 {
    fn word(self) -> u32 {
        self as u32
    }
}

impl Given for i64 {
    fn word(self) -> u32 {
        self as u32
    }
}

/// The functions of the lists, each with its parameters as the canonical ABI hands them over.
macro_rules! calls {
    ($($module:literal { $($name:literal ($($word:ty),*) $(-> $result:ty)?;)* })*) => {
        &[$($(
            |program| {
                #[cfg(target_arch = "wasm32")]
                #[link(wasm_import_module = $module)]
                unsafe extern "C" {
                    #[link_name = $name]
                    fn call($(_: $word),*) $(-> $result)?;
                }
                #[cfg(not(target_arch = "wasm32"))]
                unsafe fn call($(_: $word),*) $(-> $result)? {
                    unreachable!("{} {} is the host's", $module, $name)
                }
                let _ = &program;
                // SAFETY: none, as above: what does not fit is the host's to refuse, and what the
                // host writes where it is told to hurts this guest alone.
                unsafe { call($(<$word>::from(program.operand() as i32)),*) }.word()
            },
        )*)*]
    };
}

const CALLS: &[fn(&mut Program<'_>) -> u32] = calls! {
    "wasi:nn/tensor@0.2.0-rc-2024-10-28" {
        "[constructor]tensor" (i32, i32, i32, i32, i32) -> i32;
        "[method]tensor.dimensions" (i32, i32);
        "[method]tensor.ty" (i32) -> i32;
        "[method]tensor.data" (i32, i32);
        "[resource-drop]tensor" (i32);
    }
    "wasi:nn/graph@0.2.0-rc-2024-10-28" {
        "load" (i32, i32, i32, i32, i32);
        "load-by-name" (i32, i32, i32);
        "[method]graph.init-execution-context" (i32, i32);
        "[resource-drop]graph" (i32);
    }
    "wasi:nn/inference@0.2.0-rc-2024-10-28" {
        "[method]graph-execution-context.compute" (i32, i32, i32, i32);
        "[resource-drop]graph-execution-context" (i32);
    }
    "wasi:nn/errors@0.2.0-rc-2024-10-28" {
        "[method]error.code" (i32) -> i32;
        "[method]error.data" (i32, i32);
        "[resource-drop]error" (i32);
    }
    "berth:plugin/model@0.1.0" {
        "[static]tensor.create" (i32, i32, i32, i32, i32, i32);
        "[method]tensor.datatype" (i32) -> i32;
        "[method]tensor.shape" (i32, i32);
        "[method]tensor.size" (i32) -> i64;
        "[method]tensor.data" (i32, i32);
        "[method]tensor.read" (i32, i64, i64, i32);
        "[resource-drop]tensor" (i32);
        "[static]model.open" (i32, i32, i32);
        "[method]model.describe" (i32, i32);
        "[method]model.start" (i32, i32, i32, i32, i32, i32);
        "[resource-drop]model" (i32);
        "[method]inference.wait" (i32, i32);
        "[resource-drop]inference" (i32);
        "roles" (i32);
    }
    "berth:plugin/exchange@0.1.0" {
        "[method]request.read-body" (i32, i64, i64, i32);
        "[method]request.tensor" (i32, i32, i32, i32);
        "[method]reply.content-type" (i32, i32, i32, i32);
        "[method]reply.parameter" (i32, i32, i32, i32, i32, i32);
        "[method]reply.write" (i32, i32, i32, i32);
        "[method]reply.add-tensor" (i32, i32, i32, i32, i32);
    }
};
