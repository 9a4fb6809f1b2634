"""Reads SentencePiece's model files, as far as tokenizers need them.

SentencePiece's generated protobuf module does not import with a protobuf older than the
one it was made with, and Apache Beam requires an older one. So the fields are declared
here, by their numbers in `sentencepiece_model.proto`, and protobuf reads them.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CONTROL, USER_DEFINED = 3, 4  # kinds of pieces
UNIGRAM = 1  # kind of model

_Field = descriptor_pb2.FieldDescriptorProto
# By message: name, number, type and default of each field.
_FIELDS: dict[str, list[tuple[str, int, int | str, str]]] = {
  "Piece": [
    ("piece", 1, _Field.TYPE_STRING, ""),
    ("score", 2, _Field.TYPE_FLOAT, ""),
    ("type", 3, _Field.TYPE_INT32, "1"),
  ],
  "Trainer": [
    ("model_type", 3, _Field.TYPE_INT32, "1"),
    ("byte_fallback", 35, _Field.TYPE_BOOL, ""),
    ("unk_id", 40, _Field.TYPE_INT32, "0"),
  ],
  "Normalizer": [("precompiled_charsmap", 2, _Field.TYPE_BYTES, "")],
  "Model": [
    ("pieces", 1, "Piece", ""),
    ("trainer_spec", 2, "Trainer", ""),
    ("normalizer_spec", 3, "Normalizer", ""),
  ],
}


def _message_class() -> Any:
  package = "video_dit.sentencepiece"
  file = descriptor_pb2.FileDescriptorProto(
    name="video_dit/sentencepiece.proto", package=package, syntax="proto2"
  )
  for message, fields in _FIELDS.items():
    described = file.message_type.add(name=message)
    for name, number, kind, default in fields:
      field = described.field.add(name=name, number=number)
      repeated = name == "pieces"
      field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
      if isinstance(kind, str):
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
      else:
        field.type = kind
      if default:
        field.default_value = default
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))


_Model = _message_class()


def read(content: bytes, where: str) -> Any:
  """Reads a model file.

  Args:
    content: of the file.
    where: its path, for messages.

  Returns:
    A message with `pieces` (each with `piece`, `score`, `type`), `trainer_spec`
    (`model_type`, `byte_fallback`, `unk_id`) and `normalizer_spec`
    (`precompiled_charsmap`).

  Raises:
    ValueError: it is not a SentencePiece model.
  """
  model = _Model()
  try:
    model.ParseFromString(content)
  except Exception as e:  # protobuf's DecodeError, which differs between its versions
    raise ValueError(f"{where}: not a SentencePiece model ({e}). Copy it again.") from e
  return model
