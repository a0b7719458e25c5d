//! ONNX Runtime's messages, for people.

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
