"""The configuration that `zkaudit audit --template` prints: it runs as it is, and explains every key."""

TEMPLATE = """\
# An audit of what federated fine-tuning leaks. Run it with: zkaudit audit THIS.toml --out DIR
# As it is, it audits a tiny model built on the spot, on made-up personal data, in less than a minute.

[model]
source = "nano-llama"     # a folder that transformers saved (or its config.json), or a laboratory model:
                          # nano-gpt2, nano-llama, micro-gpt2, micro-llama, micro-bert
# task = "causal_lm"      # of a laboratory model: causal_lm, masked_lm or sequence_classification
seed = 0                  # of random weights
train_steps = 150         # of a laboratory model, on public text and records of other people; 0 leaves it random
device = "auto"           # where the audit computes: cpu, cuda, or auto, which is a GPU where torch sees one

[peft]
type = "LORA"             # LORA, DORA, ADALORA, IA3, PREFIX_TUNING, PROMPT_TUNING, P_TUNING, LN_TUNING, BITFIT,
                          # BOTTLENECK or FULL; other keys are those of peft's own configuration
r = 8
target_modules = ["q_proj", "k_proj", "v_proj"]
# config = "adapter"      # instead of all this: a file or folder that peft saved, its weights are then used too

[data]
source = "synthetic"      # or a file of lines {"text": "...", "owner": "Ada Lovelace", "pii": {"phone": "..."}}
seed = 0
kinds = ["phone", "email", "address", "card", "birth"]    # of personal data in synthetic records

[federated]               # what clients do, and what the server sees of it
sends = "gradient"        # or "delta": how far the adapters moved in local training
optimizer = "sgd"         # or "adamw"
learning_rate = 0.1
weight_decay = 0.0
schedule = "constant"     # or "linear", down to 0 within a round
local_steps = 1           # optimizer steps a round (more than one needs sends = "delta")
local_epochs = 1          # times over the round's records
batch = 1                 # records in a batch
accumulation = 1          # batches in a step
longest = 48              # tokens a record, the rest is cut
cohort = 1                # clients of whose updates the server sees only the mean (secure aggregation)
rounds = 1
same_batch = false        # whether a client uses the same records in every round
warm_up_steps = 1         # on public records before the first round; with 0, LoRA's B is still 0 in it
dropout = true            # whether clients train with dropout
precision = "float32"     # of what is sent: float64, float32, bfloat16, float16, int8, fp8_e4m3 or fp8_e5m2

[threat]
model = "passive"         # passive: sees updates; auxiliary: also has records in the same format;
                          # active: also tampers with the model that it hands out
auxiliary = 200           # records of its own, if it has any
poison = "notes"          # what an active one does: train the base on "notes", or "imprint" bottleneck adapters
poison_steps = 300        # of that training

[attacks]
run = ["auto"]            # all that fit model and threat, or names: token_set, span_test, span_test_static, pursuit,
                          # record_pursuit, dager, dager_published, dlg, tag, lamp, extraction, recit, recit_clean
batches = 2               # independent observations behind each interval
seed = 0

[defences]                # each under an attacker who knows of it and one who does not, with its cost in utility
run = ["bf16", "noise:1", "dp_sgd:1", "rank:2", "secure_aggregation:8"]
batches = 1
utility_steps = 10        # of training, to see what a defence costs; 0 leaves that out

[report]
title = "Leakage audit: example"
show_values = false       # true prints personal data in the clear
examples = 4              # records shown beside what was recovered of them
phase = true              # diagram of recall over tokens and rank
curves = true             # leakage against batch size and cohort
screen = true             # whether the base model looks poisoned
"""
