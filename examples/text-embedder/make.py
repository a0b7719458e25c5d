"""Makes the example's model and tokenizer, and what the tests compare Berth with.

    bert.onnx            a BERT of two layers with random weights
    tokenizer.json       its WordPiece vocabulary, learned from the repository's LICENSE and all but the last of TEXTS
    check/*.json         further tokenizers: byte-level BPE twice, Unigram
    check/expected.json  ids, masks and vectors of TEXTS by the Python tokenizers and onnxruntime

The same pinned requirements give the same bytes.
"""

import os

# The order of a parallel sum is not fixed, and with it the last bits.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
SEED = 20
WIDTH, HEADS, LAYERS, INNER, POSITIONS = 64, 4, 2, 128, 128
WORDS, PIECES = 1500, 600  # sizes of the vocabularies

TEXTS = [
    "Berth serves ONNX models, and this is a text about licensing.",
    "UPPER, lower, CamelCase, snake_case, 3.1415, 1,000,000 and e-mail: a.b+c@example.org",
    "",
    " ",
    "\t  spaces\u00a0of \u2003every\u200b kind\u3000\r\n\n at both ends  ",
    "naïve café, Ångström, Straße, İstanbul, ﬁne ﬂow, ½ ⅷ ²",
    "cafe\u0301 A\u030angstro\u0308m in NFD",
    "café Ångström in NFC",
    "日本語のテキスト、中文字符與한국어 텍스트。",
    "𠮷野家 and 𝔐𝔞𝔱𝔥 beyond the first plane",
    "👍🏽 👨‍👩‍👧‍👦 🇨🇭 ☃️ emoji",
    "\u0000\u0001\u001b[31mcontrol\u007f\u0085 characters\ufffd\ufeff",
    "[CLS] text that says [SEP] and [MASK] and [UNK] and [PAD] itself [cls]",
    "<s> <pad> </s> <unk> <|endoftext|>",
    "مرحبا بالعالم، שלום עולם \u202eright to left",
    "हिन्दी पाठ, ไทยไม่มีช่องว่าง, Ελληνικά ΣΊΣΥΦΟΣ, Русский текст",
    "a" * 150 + " a word longer than any",
    "!!!...,,,;;;---___***&&&%%%$$$###@@@~~~",
    "don't can't I'll we've they're it's HE'LL",
    "line one\nline two\r\nline three\n\n\n    indented();",
    "subject to the terms and conditions of this License " * 60,
    "あ" * 400,
    "Licensor",
    "ꙮ 𒀀 ☢ 臨 that no vocabulary has learned",
]


def corpus():
    return (HERE / "../../LICENSE").read_text().splitlines() + TEXTS[:-1]


def pieces(normalizer, pre_tokenizer, size):
    """How often the pieces that BPE finds begin a word of the corpus, and how often they go on with one.

    The trainers for WordPiece and Unigram number and weigh pieces another way in each run.
    """
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizer
    learner.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, show_progress=False))
    characters = sorted({piece for piece in learner.get_vocab() if len(piece) == 1})
    begin, go_on = ({character: 1 for character in characters} for _ in range(2))
    for line in corpus():
        encoding, last = learner.encode(line), None
        for piece, word in zip(encoding.tokens, encoding.word_ids):
            counts = go_on if word == last else begin
            counts[piece], last = counts.get(piece, 0) + 1, word
    return begin, go_on


def wordpiece():
    """The example's tokenizer, as BERT's, uncased."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    begin, go_on = pieces(normalizer, pre_tokenizer, WORDS)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *begin, *(f"##{piece}" for piece in go_on)]
    vocabulary = {name: at for at, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(names[:5])
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return tokenizer


def byte_level(pre_tokenizer, special):
    """As GPT-2's: it adds no tokens and knows every byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def split():
    """As Llama 3's: an expression of its own cuts words, with classes and a look ahead."""
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    steps = [
        pre_tokenizers.Split(words, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer = byte_level(pre_tokenizers.Sequence(steps), ["<|begin|>", "<|end|>"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<|begin|>", "<|end|>")]
    tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A <|end|>", special_tokens=ends)
    return tokenizer


def unigram():
    """As SentencePiece's; the file itself says how texts are cut and rows filled up: on the left."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    counts, go_on = pieces(normalizer, pre_tokenizers.Metaspace(), PIECES)
    for piece, count in go_on.items():
        counts[piece] = counts.get(piece, 0) + count
    total = sum(counts.values())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [(name, 0.0) for name in special]
    scores += [(piece, round(math.log(count / total), 4)) for piece, count in counts.items()]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>")))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A:1 </s>", special_tokens=ends)
    tokenizer.enable_truncation(24, direction="left")
    tokenizer.enable_padding(direction="left", pad_id=tokenizer.token_to_id("<pad>"), pad_type_id=1, pad_token="<pad>")
    return tokenizer


def bert(words):
    """The model, as ONNX: INT64 [batch, tokens] three times to FP32 [batch, tokens, WIDTH], and a vector a text."""
    random = np.random.default_rng(SEED)
    nodes, weights = [], {}

    def weight(name, *shape, scale=None):
        scale = scale if scale is not None else shape[0] ** -0.5
        weights[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        return name

    def constant(name, value):
        weights[name] = value
        return name

    def add(operator, inputs, name, **attributes):
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def dense(x, name, before, after):
        product = add("MatMul", [x, weight(f"{name}.weight", before, after)], f"{name}.product")
        return add("Add", [product, weight(f"{name}.bias", after, scale=0.1)], name)

    def norm(x, name):
        scale = constant(f"{name}.scale", (1 + 0.1 * random.standard_normal(WIDTH)).astype(np.float32))
        bias = weight(f"{name}.bias", WIDTH, scale=0.1)
        return add("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=1e-12)

    one = constant("one", np.array([1], np.int64))
    two = constant("two", np.array([2], np.int64))
    zero = constant("zero", np.array([0], np.int64))
    heads = constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    joined = constant("joined", np.array([0, 0, WIDTH], np.int64))

    length = add("Slice", [add("Shape", ["input_ids"], "shape"), one, two], "length")
    positions = add("Slice", [weight("positions", POSITIONS, WIDTH, scale=0.3), zero, length], "position")
    words = add("Gather", [weight("words", words, WIDTH, scale=1.0), "input_ids"], "word")
    types = add("Gather", [weight("types", 2, WIDTH, scale=0.3), "token_type_ids"], "type")
    x = norm(add("Add", [add("Add", [words, positions], "placed"), types], "embedded"), "embedding")

    mask = add("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    away = add("Sub", [mask, constant("unit", np.array(1, np.float32))], "away")
    bias = add("Mul", [away, constant("far", np.array(1e9, np.float32))], "bias.flat")
    bias = add("Unsqueeze", [bias, constant("axes", np.array([1, 2], np.int64))], "bias")
    scale = constant("scale", np.array((WIDTH // HEADS) ** -0.5, np.float32))
    for layer in range(LAYERS):
        at = f"layer.{layer}"

        def head(name, order):
            split = add("Reshape", [dense(x, f"{at}.{name}", WIDTH, WIDTH), heads], f"{at}.{name}.heads")
            return add("Transpose", [split], f"{at}.{name}.turned", perm=order)

        query, key, value = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]), head("value", [0, 2, 1, 3])
        scores = add("Mul", [add("MatMul", [query, key], f"{at}.scores"), scale], f"{at}.scaled")
        shares = add("Softmax", [add("Add", [scores, bias], f"{at}.masked")], f"{at}.shares", axis=-1)
        seen = add("Transpose", [add("MatMul", [shares, value], f"{at}.seen")], f"{at}.seen.turned", perm=[0, 2, 1, 3])
        seen = dense(add("Reshape", [seen, joined], f"{at}.seen.joined"), f"{at}.attended", WIDTH, WIDTH)
        x = norm(add("Add", [x, seen], f"{at}.sum.1"), f"{at}.norm.1")
        inner = add("Gelu", [dense(x, f"{at}.inner", WIDTH, INNER)], f"{at}.gelu")
        x = norm(add("Add", [x, dense(inner, f"{at}.outer", INNER, WIDTH)], f"{at}.sum.2"), f"{at}.norm.2")
    add("Identity", [x], "last_hidden_state")
    first = add("Gather", [x, constant("first", np.array(0, np.int64))], "cls", axis=1)
    add("Tanh", [dense(first, "pooler", WIDTH, WIDTH)], "pooler_output")

    rows = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes,
        "bert",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, rows)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*rows, WIDTH]),
            helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["batch", WIDTH]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, producer_name="berth-example", ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    )
    helper.set_model_props(model, {"description": "a BERT of two layers with random weights"})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def encode(file, texts, max_length, padding):
    """Ids, masks and types of texts, [texts, tokens] each, as the tokenizer's file and a configuration say."""
    tokenizer = Tokenizer.from_file(str(file))
    cut, pad = tokenizer.truncation or {}, tokenizer.padding
    max_length = max_length or cut["max_length"]
    tokenizer.enable_truncation(max_length, direction=cut.get("direction", "right"))
    pad = {name: pad[name] for name in ("direction", "pad_id", "pad_type_id", "pad_token")} if pad else {}
    tokenizer.enable_padding(**pad, length=max_length if padding == "max_length" else None)
    encodings = tokenizer.encode_batch(texts)
    fields = [[list(getattr(one, name)) for one in encodings] for name in ("ids", "attention_mask", "type_ids")]
    return dict(zip(("ids", "mask", "types"), fields))


def embed(session, tokens, pooling, normalize):
    """A vector for each row of tokens, [texts, WIDTH]; without pooling the model's own."""
    names = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
    inputs = {name: np.array(tokens[key], np.int64) for name, key in names.items()}
    hidden, vectors = session.run(["last_hidden_state", "pooler_output"], inputs)
    mask = inputs["attention_mask"].astype(np.float32)[:, :, None]
    if pooling == "mean":
        vectors = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    elif pooling == "cls":
        vectors = hidden[:, 0]
    if normalize:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def expected():
    """What the tests compare with: for each case the configuration and what comes of it."""
    cases, vectors = [], []
    for name in ("tokenizer", "check/byte-level", "check/split", "check/unigram"):
        for max_length, padding in ((128, "longest"), (16, "max_length"), (None, "longest")):
            file = HERE / f"{name}.json"
            if max_length is None and not Tokenizer.from_file(str(file)).truncation:
                continue
            # A text without tokens has no vector.
            texts = [at for at, text in enumerate(TEXTS) if Tokenizer.from_file(str(file)).encode(text).ids]
            tokens = encode(file, [TEXTS[at] for at in texts], max_length, padding)
            config = {"max_length": max_length, "padding": padding}
            cases.append({"tokenizer": f"{name}.json", "config": config, "texts": texts, **tokens})
    session = onnxruntime.InferenceSession(HERE / "bert.onnx", providers=["CPUExecutionProvider"])
    for max_length, padding, pooling, normalize in (
        (128, "longest", "mean", False),
        (128, "max_length", "mean", True),
        (16, "longest", "cls", False),
        (32, "max_length", "cls", True),
        (64, "longest", None, True),
    ):
        tokens = encode(HERE / "tokenizer.json", TEXTS, max_length, padding)
        config = {"max_length": max_length, "padding": padding, "normalize": normalize}
        config |= {"pooling": pooling} if pooling else {"output": "pooler_output"}
        found = embed(session, tokens, pooling, normalize)
        rounded = [[round(float(value), 7) for value in vector] for vector in found]
        counts = [sum(mask) for mask in tokens["mask"]]
        vectors.append({"config": config, "tokens": counts, "embeddings": rounded})
    return {"texts": TEXTS, "tokens": cases, "vectors": vectors}


def main():
    made = {
        "tokenizer": wordpiece(),
        "check/byte-level": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"]),
        "check/split": split(),
        "check/unigram": unigram(),
    }
    for name, tokenizer in made.items():
        (HERE / f"{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    (HERE / "bert.onnx").write_bytes(bert(made["tokenizer"].get_vocab_size()))
    (HERE / "check/expected.json").write_text(json.dumps(expected(), separators=(",", ":")) + "\n")
    for file in sorted(HERE.rglob("*.json")) + [HERE / "bert.onnx"]:
        print(f"{file.relative_to(HERE)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
