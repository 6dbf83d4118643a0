"""The words of the page in both languages, and numbers as a reader of each would write them."""

from congling.report.html import Html, both
from congling.reporter import human

NAMES = {
    "fetch": both("取数据", "Fetch"),
    "clean": both("清洗", "Clean"),
    "tokenizer": both("词表", "Vocabulary"),
    "tokenize": both("分词", "Tokenize"),
    "pretrain": both("预训练", "Pretrain"),
    "sft": both("指令微调", "Fine-tune"),
    "evaluate": both("评测", "Evaluate"),
}
STATES = {
    "done": both("已完成", "done"),
    "begun": both("已开始，尚未完成", "begun, not finished"),
    "absent": both("尚未开始", "not begun yet"),
    "damaged": both("清单损坏", "manifest damaged"),
}
REASONS = {
    "bad_encoding": both("编码错误", "bad encoding"),
    "bad_json": both("JSON 损坏", "broken JSON"),
    "no_text": both("没有正文", "no text"),
    "garbled": both("乱码", "garbled"),
    "too_short": both("太短", "too short"),
    "too_long": both("太长", "too long"),
    "low_cjk": both("汉字太少", "too little Chinese"),
    "high_ascii": both("字母太多", "too many Latin letters"),
    "high_punctuation": both("标点太多", "too much punctuation"),
    "repeated_lines": both("重复的行", "repeated lines"),
    "repetition": both("自我重复", "repeats itself"),
    "repeated_pair": both("叠字过多", "one pair of letters again and again"),
    "duplicate": both("完全重复", "exact duplicate"),
    "near_duplicate": both("近似重复", "near-duplicate"),
}


def count(value: float | None) -> str:
    """1234567 -> '1,234,567'."""
    return "–" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes: 23336119 -> '23.3 MB'."""
    if value is None:
        return "–"
    return f"{human(value)}B" if value >= 1e4 else f"{value / 1e3:.2f} kB" if value >= 1e3 else f"{value:.0f} B"


def share(part: float, whole: float) -> str:
    """'12.3 %'; what is there but tiny is '<0.01 %'."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2f} %"


def decimals(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def cn(value: float) -> str:
    """A count in Chinese prose: 3100000 -> '310 万'."""
    for limit, word in ((1e8, "亿"), (1e4, "万")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.3g} {word}" if scaled < 1000 else f"{scaled:.0f} {word}"
    return f"{value:.0f}"


def time_of(seconds: float) -> Html:
    """A duration: '1 小时 02 分' and '1 h 02 min'."""
    whole = round(seconds)
    if seconds < 10:
        return both(f"{seconds:.1f} 秒", f"{seconds:.1f} s")
    if whole < 60:
        return both(f"{whole} 秒", f"{whole} s")
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return both(f"{minutes} 分 {rest:02d} 秒", f"{minutes} min {rest:02d} s")
    hours, minutes = whole // 3600, whole % 3600 // 60
    return both(f"{hours} 小时 {minutes:02d} 分", f"{hours} h {minutes:02d} min")
