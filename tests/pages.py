"""Pages as the tests read them."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What the tests ask of the page."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.images, self.data, self.words = [], [], [], []
        self._inside = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside += [tag] if tag not in ("meta", "img", "br", "link") else []
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "data":
            self.data.append([float(dict(attrs)["value"]), ""])

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag

    def handle_data(self, text):
        if self._inside and self._inside[-1] == "data":
            self.data[-1][1] += text
        elif "style" not in self._inside:
            self.words.append(text)


def leaves(value):
    """Yield the numbers and texts in nested lists and dicts."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value
