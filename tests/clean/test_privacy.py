"""Privacy masks: what each kind takes, and what looks like it and stays. No number here is a person's."""

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from congling.clean.privacy import KINDS, PLACEHOLDERS, mask


def _one(text, kinds=KINDS):
    result, counts = mask(pa.array([text], pa.large_string()), kinds)
    return result[0].as_py(), {k: int(c) for k, c in zip(KINDS, counts[0], strict=True) if c}


TAKEN = [
    ("电话13812345678。", "电话[手机号]。", "phone"),
    ("+86 138-1234-5678", "[手机号]", "phone"),
    ("+8613812345678", "[手机号]", "phone"),
    ("008613812345678", "[手机号]", "phone"),
    ("手机：138 1234 5678，", "手机：[手机号]，", "phone"),
    ("010-62345678", "[手机号]", "phone"),
    ("(0571) 8765 4321", "[手机号]", "phone"),
    ("（0571）87654321", "[手机号]", "phone"),
    ("0311-8691199", "[手机号]", "phone"),
    ("021-62345678-801", "[手机号]", "phone"),
    ("+86-10-62345678", "[手机号]", "phone"),
    ("身份证11010519491231002X。", "身份证[身份证号]。", "id"),
    ("440524188001010014", "440524188001010014", None),  # born in 1880
    ("440524198001010013", "[身份证号]", "id"),
    ("旧证130503670401001号", "旧证[身份证号]号", "id"),
    ("卡号6222021234567890128", "卡号[银行卡号]", "bank"),
    ("4111 1111 1111 1111", "[银行卡号]", "bank"),
    ("邮箱a.b-c@mail.example.com.", "邮箱[邮箱].", "email"),
    ("123456@qq.com", "[邮箱]", "email"),
    ("服务器8.130.22.45:8080", "服务器[IP]:8080", "ip"),
    ("http://47.96.9.75/x", "http://[IP]/x", "ip"),
    ("地址 2408:8207:78a0::1f 可用", "地址 [IP] 可用", "ip"),
    ("QQ：12345678", "QQ：[QQ号]", "account"),
    ("qq群号 123456789", "qq群号 [QQ号]", "account"),
    ("QQ12345678", "QQ[QQ号]", "account"),
    ("微信号: abc_123", "微信号: [微信号]", "account"),
    ("加V：abc12345", "加V：[微信号]", "account"),
    ("vx:abc_123", "vx:[微信号]", "account"),
    ("wx：zhang-san1", "wx：[微信号]", "account"),
    ("支付宝账号：zhangsan88", "支付宝账号：[支付宝]", "account"),
    ("微信号：13812345678", "微信号：[手机号]", "phone"),
    ("支付宝：a@b.cn", "支付宝：[邮箱]", "email"),
]


@pytest.mark.parametrize(("text", "expected", "kind"), TAKEN)
def test_taken(text, expected, kind):
    assert _one(text) == (expected, {kind: 1} if kind else {})


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-7-111-12345-6，ISBN：13812345678",
        "2024-01-02 12:30:45，2024年1月2日，20240102",
        "价格 13,812,345,678 元，13812345678元，¥138.12",
        "订单号：13812345678，编号 13912345678，AB13812345678",
        "138123456789 1381234567 0.13812345678 13812345678.5",
        "400-123-4567，800-820-8820，12315，95588",
        "3.14159265358979323846264338327950288",
        "138-12-345678，138 1234",
        "110105194912310021 440524198002300012 999999198001010017",  # checksum, February 30, province
        "id=311674710320284 311674 710320 284",
        "6222021234567890123 1234567812345670 62220212345678901280000",  # Luhn, issuer, length
        "版本 10.2.13.140，version: 58.0.229.110，v1.2.3.4，Chrome/58.0.229.110",
        "127.0.0.1 0.0.0.0 192.168.1.101 10.20.30.40 172.16.20.30 255.255.255.0 256.100.100.100 1.2.3.4 1.2.3.4.5",
        "12:34:56 00:1a:2b:3c:4d:5e std::abc::def fe80::1:2:3 ::1 a::b",
        "git@github.com:a/b @app.route icon@2x.png a@b pkg@1.2.3 @某人",
        "QQ音乐2023，qq 1234，用QQ聊天，QQ群有12345人",
        "微信公众号：renminwang，微信iPhone版，用微信支付，wx: function() 和 vx: number",
        "支付宝 app，支付宝花呗",
        "f(x)=12345678901234567890*2^10, 1e10, 0x13812345678",
        "",
    ],
)
def test_stays(text):
    assert _one(text) == (text, {})


def test_kinds_and_batches():
    texts = ["13812345678 a@b.cn", "没有", "QQ：12345678，13912345678"]
    array = pa.array(["x", *texts], pa.large_string()).slice(1)
    masked, counts = mask(array, ("phone",))
    assert masked.to_pylist() == ["[手机号] a@b.cn", "没有", "QQ：12345678，[手机号]"]
    assert counts.shape == (3, len(KINDS))
    assert counts[:, KINDS.index("phone")].tolist() == [1, 0, 1]
    assert counts.sum() == 2
    assert mask(array, KINDS)[1].sum(0).tolist() == [2, 0, 0, 1, 0, 1]
    assert mask(array.slice(1, 1), KINDS)[0].equals(array.slice(1, 1))
    assert mask(array, ())[1].sum() == 0
    assert mask(array.slice(0, 0), KINDS)[0].to_pylist() == []


def test_no_find_is_no_copy():
    array = pa.array(["你好，世界 2024", "abc"], pa.large_string())
    assert mask(array, KINDS)[0] is array


PIECES = [*"- ：:.@", "13812345678", "010-62345678", "+86", "qq", "QQ", "微信号", "加V", "支付宝", "号", "a@b.cn"]
PIECES += ["8.130.22.45", "2408::1:2", "11010519491231002X", "4111111111111111", "(0571)", "8765", "abc_1", "元"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([*PIECES, *PLACEHOLDERS]) | st.text(max_size=3), max_size=12).map("".join))
@example("13812345678-13912345678")
@example("QQ:12345678.a@b.cn")
def test_idempotent_and_valid(text):
    array = pa.array([text], pa.large_string())
    masked, counts = mask(array, KINDS)
    masked.validate(full=True)  # UTF-8
    assert (counts.sum() == 0) == (masked[0].as_py() == text)
    again, none = mask(masked, KINDS)
    assert again[0] == masked[0]
    assert not none.any()
