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
    "damaged_file": both("文件损坏", "damaged file"),
    "too_large": both("记录过大", "huge record"),
    "garbled": both("乱码", "garbled"),
    "mojibake": both("错码", "wrong encoding"),
    "too_short": both("太短", "too short"),
    "too_long": both("太长", "too long"),
    "low_cjk": both("汉字太少", "too little Chinese"),
    "high_ascii": both("字母太多", "too many Latin letters"),
    "high_digits": both("数字太多", "too many digits"),
    "high_punctuation": both("标点太多", "too much punctuation"),
    "commas": both("逗号句号异常", "odd share of commas"),
    "list_page": both("列表页", "list page"),
    "link_page": both("链接页", "page of links"),
    "stuffing": both("堆砌词语", "stuffed with words"),
    "teasers": both("“阅读全文”页", "cut-off teasers"),
    "unfinished": both("句子不完整", "unfinished sentences"),
    "repeated_lines": both("重复的行", "repeated lines"),
    "repeated_paragraphs": both("重复的段落", "repeated paragraphs"),
    **{f"top_{n}gram": both(f"一个{n}字串太多", f"one {n}-gram again and again") for n in (2, 3, 4)},
    **{f"repeated_{n}grams": both(f"{n}字串重复", f"repeated {n}-grams") for n in (5, 6, 7, 8, 9, 10)},
    "advert": both("广告与套话", "adverts and boilerplate"),
    "lexicon": both("词单", "word list"),
    "contaminated": both("含评测题", "holds evaluation items"),
    "low_quality": both("质量低", "low quality"),
    "duplicate": both("完全重复", "exact duplicate"),
    "near_duplicate": both("近似重复", "near-duplicate"),
}
# Of cleaning: what normalisation changes, what is masked, and the steps.
CHANGES = {
    "control": both("控制字符", "control characters"),
    "invisible": both("看不见的字符", "invisible characters"),
    "garbled": both("乱码字符", "garbled characters"),
    "newlines": both("换行符", "line ends"),
    "spaces": both("空格", "spaces"),
    "blank_lines": both("空行", "blank lines"),
    "fullwidth": both("全角字母数字", "full-width letters"),
    "punctuation": both("重复的标点", "repeated punctuation"),
    "html": both("HTML 残留", "remains of HTML"),
    "unicode": both("Unicode 规范化", "Unicode normal form"),
    "mojibake": both("修复错码", "wrong encoding repaired"),
    "wraps": both("接上断行", "broken lines joined"),
    "traditional": both("繁体转简体", "traditional to simplified"),
}
MASKED = {
    "phone": both("电话号码", "phone numbers"),
    "id": both("身份证号", "identity numbers"),
    "bank": both("银行卡号", "bank cards"),
    "email": both("邮箱", "e-mail"),
    "ip": both("IP 地址", "IP addresses"),
    "account": both("QQ、微信、支付宝账号", "QQ, WeChat, Alipay accounts"),
}
LABELS = {"high": both("高", "high"), "mid": both("中", "mid"), "low": both("低", "low")}
STEPS = {
    "read": both("读取", "read"),
    "compare": both("比较、去重", "compare"),
    "boilerplate": both("找套话与广告", "find boilerplate"),
    "finish": both("裁决、剪去", "judge and cut"),
    "write": both("写出", "write"),
    "normalise": both("规范化", "normalise"),
    "measure": both("测量", "measure"),
    "mask": both("遮盖隐私", "mask"),
    "fingerprint": both("指纹", "fingerprint"),
    "write part": both("写中间文件", "write parts"),
    "judge": both("裁决", "judge"),
    "deal": both("洗牌分发", "deal"),
    "total": both("合计", "total"),
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
