//! The files beside a model that hold its weights: ONNX's external data.
//!
//! A model's file is a protocol buffer of at most 2 GiB. What is larger keeps its weights in files of
//! their own, which its tensors name. [`beside`] finds the names without reading weights: it goes from
//! message to message, and passes over whatever is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The most files that one model may name.
const MOST: usize = 1000;

/// The longest name, in bytes.
const NAME_LENGTH: u64 = 1024;

/// The largest protocol buffer, in bytes.
const MODEL_LENGTH: u64 = i32::MAX as u64;

/// How deep messages may lie in each other; ONNX Runtime reads 100.
const DEPTH: usize = 128;

/// Why the files that a model names are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum DataFileError {
    /// The model's file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The model's file is larger than any ONNX model.
    #[error("is larger than 2 GiB, which no ONNX file may be; export it with external data")]
    TooLarge,
    /// The model names more files than are taken.
    #[error(
        "keeps its weights in more than {MOST} files; export it with all tensors in one data file"
    )]
    TooMany,
    /// A name leads out of the model's folder.
    #[error(
        "names the data file {0:?}, and a data file lies beside the model or below: rename it and export the model again"
    )]
    Outside(String),
    /// A file is not there.
    #[error("names the data file {name:?}, which is not beside it ({problem})")]
    Missing {
        /// Its name.
        name: String,
        /// The system's words.
        problem: String,
    },
    /// A file ends before the weights that the model has in it.
    #[error(
        "has weights in the data file {name:?} up to byte {needed}, and that file has {length}: copy it again, or export the model again"
    )]
    Short {
        /// Its name.
        name: String,
        /// Bytes that it would have.
        needed: u64,
        /// Bytes that it has.
        length: u64,
    },
    /// A file is none, or a link.
    #[error(
        "names the data file {0:?}, which is no file but a link or a folder: put the file itself there"
    )]
    NoFile(String),
}

/// The data files that the model in `file` names, by their names relative to its folder. Each is
/// there, below that folder, no link, and as long as its weights need it to be. Of what is no ONNX model, the names up to there.
pub fn beside(file: &Path) -> Result<BTreeMap<String, PathBuf>, DataFileError> {
    let model = File::open(file)?;
    if !model.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    let named = named(model)?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize()?;
    let found = named.into_iter().map(|(name, needed)| {
        let path = folder.join(&name);
        match path.canonicalize() {
            Ok(real) if real == path && path.is_file() => match path.metadata()?.len() {
                length if length < needed => Err(DataFileError::Short { name, needed, length }),
                _ => Ok((name, path)),
            },
            Ok(_) => Err(DataFileError::NoFile(name)),
            Err(error) => Err(DataFileError::Missing { name, problem: error.to_string() }),
        }
    });
    found.collect()
}

/// The name of a data file as it is kept: its parts joined by `/`; nothing for one that leads out of
/// the model's folder, or that ONNX Runtime reads as an address in its memory.
pub fn plain_name(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let addressed = parts.contains(&"*") || name.contains('\0');
    let fits = !parts.is_empty() && name.len() as u64 <= NAME_LENGTH && !addressed;
    fits.then(|| parts.join("/"))
}

/// The names, and where the last weights end in each; no look at whether anything is there.
fn named(file: impl Read + Seek) -> Result<BTreeMap<String, u64>, DataFileError> {
    let mut file = BufReader::new(file);
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    if length > MODEL_LENGTH {
        return Err(DataFileError::TooLarge);
    }
    let mut walk = Walk { file, at: 0, found: BTreeMap::new() };
    match walk.message(Message::Model, length, 0) {
        // What is no protocol buffer is the runtime's to refuse, in its words.
        Ok(()) | Err(Stop::NoMessage) => Ok(walk.found),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// The messages on the way to a tensor.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl Message {
    /// What a field holds, if a tensor may be in it.
    fn inside(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            _ => return None,
        })
    }
}

enum Stop {
    NoMessage,
    Error(DataFileError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::NoMessage,
            _ => Self::Error(error.into()),
        }
    }
}

/// A field's number and what it holds; of bytes and messages, their length.
enum Value {
    Number(u64),
    Bytes(u64),
    Other,
}

/// A pair of key and value of a tensor whose elements are elsewhere: the file, or its offset or length
/// there.
enum Pair {
    Location(String),
    Bytes(u64),
    Other,
}

struct Walk<R: Read + Seek> {
    file: BufReader<R>,
    at: u64,
    found: BTreeMap<String, u64>,
}

impl<R: Read + Seek> Walk<R> {
    /// Goes through the message that ends at `end`, which is within the file.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH {
            return Err(Stop::NoMessage);
        }
        let (mut locations, mut is_external) = (Vec::new(), false);
        let mut weights_end = 0_u64;
        while self.at < end {
            let (field, value) = self.field(end)?;
            match (message, field, value) {
                (Message::Tensor, 13, Value::Bytes(length)) => {
                    match self.pair(self.at + length)? {
                        Pair::Location(name) => locations.push(name),
                        // What overflows is the runtime's to refuse.
                        Pair::Bytes(bytes) => weights_end = weights_end.saturating_add(bytes),
                        Pair::Other => {}
                    }
                }
                (Message::Tensor, 14, Value::Number(place)) => is_external = place == 1,
                (_, _, Value::Bytes(length)) => match message.inside(field) {
                    Some(inside) => self.message(inside, self.at + length, depth + 1)?,
                    None => self.skip(length)?,
                },
                _ => {}
            }
        }
        if is_external {
            for name in locations {
                let end = self.found.entry(name).or_default();
                *end = weights_end.max(*end);
            }
        }
        if self.found.len() > MOST {
            return Err(Stop::Error(DataFileError::TooMany));
        }
        Ok(())
    }

    /// What one of a tensor's pairs of key and value says.
    fn pair(&mut self, end: u64) -> Result<Pair, Stop> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            match self.field(end)? {
                (1, Value::Bytes(length)) => key = self.text(length)?,
                (2, Value::Bytes(length)) => value = self.text(length)?,
                (_, Value::Bytes(length)) => self.skip(length)?,
                _ => {}
            }
        }
        Ok(match key.as_str() {
            "location" => match plain_name(&value) {
                Some(name) => Pair::Location(name),
                None => return Err(Stop::Error(DataFileError::Outside(value))),
            },
            "offset" | "length" => Pair::Bytes(value.parse().unwrap_or(0)),
            _ => Pair::Other,
        })
    }

    /// The next field of a message that ends at `end`: of bytes, before them; else behind it.
    fn field(&mut self, end: u64) -> Result<(u64, Value), Stop> {
        let key = self.number(end)?;
        let value = match key & 7 {
            0 => Value::Number(self.number(end)?),
            1 => self.fixed(8, end)?,
            2 => {
                let length = self.number(end)?;
                if length > end - self.at {
                    return Err(Stop::NoMessage);
                }
                Value::Bytes(length)
            }
            3 => self.group(end)?,
            5 => self.fixed(4, end)?,
            _ => return Err(Stop::NoMessage),
        };
        Ok((key >> 3, value))
    }

    fn fixed(&mut self, length: u64, end: u64) -> Result<Value, Stop> {
        if length > end - self.at {
            return Err(Stop::NoMessage);
        }
        self.skip(length)?;
        Ok(Value::Other)
    }

    /// Passes over a group, which ONNX has none of and other readers pass over too.
    fn group(&mut self, end: u64) -> Result<Value, Stop> {
        let mut open = 1_u64;
        while open > 0 {
            let key = self.number(end)?;
            match key & 7 {
                0 => {
                    self.number(end)?;
                }
                1 => {
                    self.fixed(8, end)?;
                }
                2 => {
                    let length = self.number(end)?;
                    self.fixed(length, end)?;
                }
                3 => open += 1,
                4 => open -= 1,
                5 => {
                    self.fixed(4, end)?;
                }
                _ => return Err(Stop::NoMessage),
            }
        }
        Ok(Value::Other)
    }

    fn number(&mut self, end: u64) -> Result<u64, Stop> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                break;
            }
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(Stop::NoMessage)
    }

    /// A text, of one that is too long to be looked at only the beginning.
    fn text(&mut self, length: u64) -> Result<String, Stop> {
        let taken = length.min(NAME_LENGTH + 1);
        let mut bytes = vec![0; taken as usize];
        self.file.read_exact(&mut bytes)?;
        self.at += taken;
        self.skip(length - taken)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, length: u64) -> Result<(), Stop> {
        // Within the file, so below 2 GiB.
        self.file.seek_relative(length as i64)?;
        self.at += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
