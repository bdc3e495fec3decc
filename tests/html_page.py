"""What a page of HTML shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects texts, tables and images, and checks that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.stack, self.images, self.rows, self.tags = [], [], [], set()
        self.feed(html)
        assert self.stack == []
        self.text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.rows and self.stack and set(self.stack) & {"td", "th"}:
            self.rows[-1][-1] += data
