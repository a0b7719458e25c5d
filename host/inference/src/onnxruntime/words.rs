//! What ONNX Runtime and models' files say, for people.

use std::path::Path;

/// A message on one line, without the places in ONNX Runtime's source that it names before what it
/// says: `/onnxruntime_src/onnxruntime/core/graph/model.cc:256 Model::Model(ModelProto&&) `.
pub(super) fn one_line(message: &str) -> String {
    // It breaks its messages into lines and ends some with a line break.
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while let Some(word) = rest.split(' ').next().filter(|word| !word.is_empty()) {
        let after = if is_place(word) { after_signature(&rest[word.len()..]) } else { None };
        rest = after.unwrap_or_else(|| {
            said.push_str(word);
            said.push(' ');
            rest[word.len()..].trim_start()
        });
    }
    said.truncate(said.trim_end().len());
    said
}

/// A message of a model's file, without the places where the host keeps that and the files beside it.
pub(super) fn without_paths(message: &str, file: &Path) -> String {
    let mut message = message.to_owned();
    for file in [Some(file.to_path_buf()), file.canonicalize().ok()].into_iter().flatten() {
        message = message.replace(&*file.to_string_lossy(), "the file");
        if let Some(folder) = file.parent().filter(|folder| folder.parent().is_some()) {
            message = message.replace(&format!("{}/", folder.display()), "");
        }
    }
    message
}

/// The longest text of a model's file that is shown, in bytes.
const SHOWN: usize = 1024;

/// A text of a model's file as it is shown: not too long, and nothing that a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    let kept = text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    kept.chain((end < text.len()).then_some('…')).collect()
}

/// Whether a message says that there was no memory.
pub(super) fn is_memory(message: &str) -> bool {
    // Of C++, of ONNX Runtime's own allocator, and of CUDA.
    ["std::bad_alloc", "Failed to allocate memory", "CUDA failure 2: out of memory"]
        .iter()
        .any(|words| message.contains(words))
}

/// Whether this is a file of C++ and a line in it.
fn is_place(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else { return false };
    let source = [".cc", ".cpp", ".cu", ".h", ".hpp", ".cuh"].iter().any(|end| file.ends_with(end));
    source && !line.is_empty() && line.bytes().all(|c| c.is_ascii_digit())
}

/// What follows a function's signature, as compilers write it for `__PRETTY_FUNCTION__`; none when
/// there is nothing, or no signature.
fn after_signature(text: &str) -> Option<&str> {
    let mut depth = 0;
    let mut arguments = false;
    let end = text.char_indices().find_map(|(at, c)| {
        match c {
            '(' | '<' | '[' => depth += 1,
            ')' | '>' | ']' => depth -= 1,
            _ => {}
        }
        arguments |= c == ')' && depth == 0;
        (arguments && depth == 0 && c == ' ').then_some(at)
    })?;
    let mut rest = text[end..].trim_start();
    rest = rest.strip_prefix("const ").unwrap_or(rest);
    if let Some(types) = rest.strip_prefix("[with ") {
        rest = types.split_once("] ")?.1;
    }
    (!rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &str) {
        assert_eq!(one_line(message), expected);
    }

    #[test]
    fn want_of_memory_is_told_from_other_failures() {
        for (message, expected) in [
            ("std::bad_alloc", true),
            ("running Add node. Failed to allocate memory for requested buffer of size 4", true),
            ("CUDA failure 2: out of memory ; GPU=0 ; hostname=a", true),
            ("Could not find an implementation for Add(14)", false),
        ] {
            assert_eq!(is_memory(message), expected, "{message}");
        }
    }

    #[test]
    fn places_of_the_host_are_left_out() {
        for (message, expected) in [
            ("open file /store/partial/ab/w.bin fail", "open file w.bin fail"),
            (
                "Load model from /store/partial/ab/model.onnx failed",
                "Load model from the file failed",
            ),
            ("/store/partial is not it", "/store/partial is not it"),
        ] {
            assert_eq!(without_paths(message, Path::new("/store/partial/ab/model.onnx")), expected);
        }
        assert_eq!(without_paths("a / b", Path::new("/model.onnx")), "a / b");
    }

    #[test]
    fn texts_are_cut_and_harmless() {
        for (text, expected) in [
            ("plain", "plain".to_owned()),
            ("a\n\u{1b}[31mb", "a\u{fffd}\u{fffd}[31mb".to_owned()),
            (&"ü".repeat(513), "ü".repeat(512) + "…"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn places_in_the_source_are_left_out() {
        check("two\n  lines\n", "two lines");
        check("", "");
        check(
            "/src/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const std::vector<std::function<void(int)> >&) Unsupported model IR version: 14, max supported IR version: 13\n",
            "Unsupported model IR version: 14, max supported IR version: 13",
        );
        check(
            "Non-zero status code returned while running GRU node. Name:'' Status Message: C:/src/rnn/gru.h:56 virtual Status Gru<T>::Compute(Context*) const [with T = float] layout == 0 was false. no\nlayout (1)",
            "Non-zero status code returned while running GRU node. Name:'' Status Message: layout == 0 was false. no layout (1)",
        );
        check("a.cc:1 f()::<lambda(int)> wrong, as b.h:22 g(int) says", "wrong, as says");
        // Nothing would be left, or it is no place.
        for kept in ["a.cc:1 f(int)", "model.cc:256", "x.onnx:1 f(x) y", "a.cc: f(x) y", "(a.cc:1"]
        {
            check(kept, kept);
        }
    }
}
