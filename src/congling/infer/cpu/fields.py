"""What the kernels are told of a model: names for places in tables of int64 (numbers, and addresses of numbers).

Widths are multiples of 64, filled up with zeros: D model width, K head width, F inner width of the feed-forward.
"""

# Places in the tables ``model`` (one for a model) and ``layers`` [L, …] (one a layer); names are those of buffers too.
(
    LAYERS, DIM, TRUE_DIM, HEADS, HEAD, TRUE_HEAD, INNER, VOCAB,
    WEIGHTS, CACHE, WEIGHT_PRODUCT, CACHE_PRODUCT, PRE_NORM, QK_NORM, POSITION, FEED, ABSORBED, LOG_SCALE_FROM, THREADS,
    EMBEDDING, FINAL_NORM, HEAD_MATRIX, NUMBERS,
    POOL, PAGE_BYTES, LAYER_BYTES, BARRIER, IDENTITY,
    X, Y, ROWS, Q, K, V, FIRST_V, UP, GATE, ROTATIONS, LOGITS,
    SCORES, SCORES_2, P_ROWS, TOTALS, QUERY_ROWS, FOLDED, CONSTANTS, CONTEXT, TURNED,
    SCRATCH_Y, SCRATCH_ROWS, SCRATCH_K, SCRATCH_V, SCRATCH_PAGES, SCRATCH_SPARE, NUM_FIELDS,
) = range(55)  # fmt: skip
(
    W_QUERY, W_KEY, W_VALUE, W_OUT, W_UP, W_GATE, W_DOWN, W_FOLDED,
    B_QUERY, B_KEY, B_VALUE, B_OUT, B_UP, B_GATE, B_DOWN,
    NORM_1, NORM_2, QUERY_BIAS, KEY_BIAS, RATE, OFFSET, BEFORE, AFTER, VALUE_MIX, NUM_LAYER_FIELDS,
) = range(25)  # fmt: skip
# NUMBERS: float32 of a model
EMBEDDING_SCALE, EMBEDDING_BIAS, LOGIT_SCALE, LOGIT_BIAS, SOFTCAP, NUM_NUMBERS = range(6)
NO_POSITION, DECAY, ALIBI, ROPE = range(4)  # POSITION
RELU_RELU, RELU2, SWIGLU = range(3)  # FEED
# A job: some rows of one sequence whose attention is done together.
# Table of its pages (address), of the pages to expand, first row in the batch, rows, tokens that the last row sees,
# first row in the wave, first page in the wave.
JOB_TABLE, JOB_SOURCE, JOB_ROW, JOB_ROWS, JOB_TOKENS, JOB_PLACE, JOB_PAGE, NUM_JOB_FIELDS = range(8)
# A wave: jobs that follow one another, all of one form, and for how many tokens keys and values are made first.
WAVE_FIRST, WAVE_LAST, WAVE_FORM, WAVE_EXPAND, NUM_WAVE_FIELDS = range(5)
KV_PAGES, LAYER_INPUTS, EXPANDED = range(3)  # WAVE_FORM
WAVE_ROWS = 16  # of all jobs of a wave
PAGE = 32  # tokens
TURNED_PAGES = 8  # of layer inputs turned around at a time: they stay in the second-level cache
