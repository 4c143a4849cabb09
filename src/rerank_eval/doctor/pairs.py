"""Known pairs: queries with a document that answers them and one that does not, in English, Chinese and code.

They were written for this check. The irrelevant document of a pair is about something else altogether, so that any
trained reranker or encoder of that language tells the two apart; a prompt, a head or an attention that is wrong does
not. The model card of Qwen3-Reranker gives one such example, a capital and gravity.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownPair:
    """A query with one document of each kind.

    Attributes:
        language: `en`, `zh` or `code`.
        query: The query.
        relevant: A document that answers it.
        irrelevant: A document that does not.
    """

    language: str
    query: str
    relevant: str
    irrelevant: str


# ruff: noqa: RUF001 - Chinese is written with full-width punctuation
PAIRS = (
    KnownPair(
        "en",
        "What is the capital of China?",
        "Beijing has been the capital of the People's Republic of China since 1949.",
        "Gravity pulls any two masses towards each other; it keeps the planets on their orbits around the sun.",
    ),
    KnownPair(
        "en",
        "how long should I boil an egg to get a hard yolk",
        "For a hard-boiled egg with a firm yolk, leave the egg in boiling water for ten to twelve minutes.",
        "The violin is held under the chin, and the bow is drawn across its four strings.",
    ),
    KnownPair(
        "zh",
        "光合作用产生什么气体？",
        "植物进行光合作用时吸收二氧化碳和水，在阳光下合成有机物，同时释放出氧气。",
        "该公司第三季度的营业收入同比下降，董事会决定推迟新工厂的建设计划。",
    ),
    KnownPair(
        "zh",
        "《红楼梦》的作者是谁？",
        "《红楼梦》是清代作家曹雪芹创作的长篇小说，位列中国古典四大名著之一。",
        "更换汽车轮胎之前，应先拉紧手刹，再用千斤顶把车身抬起。",
    ),
    KnownPair(
        "code",
        "Python function that returns the n-th Fibonacci number",
        "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
        "SELECT city, COUNT(*) FROM customers WHERE country = 'FR' GROUP BY city ORDER BY city;\n",
    ),
    KnownPair(
        "code",
        "read a text file and count its lines",
        'def count_lines(path):\n    with open(path, encoding="utf-8") as handle:\n        return len(list(handle))\n',
        ".button { border-radius: 4px; background: #0a5; color: white; padding: 8px 16px; }\n",
    ),
)

PYTHON_PAIRS = (
    KnownPair(
        "code",
        "Return the n-th Fibonacci number.",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
        "def connect(self, host, port):\n    self.socket.connect((host, port))\n    self.connected = True\n",
    ),
    KnownPair(
        "code",
        "Count the lines of a text file.",
        "def count_lines(path):\n    with open(path) as file:\n        return len(file.readlines())\n",
        "def rotate(image, angle):\n    return image.transform(Rotation(angle), fill=0)\n",
    ),
    KnownPair(
        "code",
        "Send an email message to the given recipients.",
        "def send_mail(server, message, recipients):\n    for one in recipients:\n        server.send(one, message)\n",
        "def median(values):\n    ordered = sorted(values)\n    return ordered[len(ordered) // 2]\n",
    ),
    KnownPair(
        "code",
        "Convert a temperature from Celsius to Fahrenheit.",
        "def celsius_to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32\n",
        "def remove_user(self, name):\n    del self.users[name]\n    self.save()\n",
    ),
)
"""Pairs for the project's own small reranker, which was trained on Python functions and nothing else."""
