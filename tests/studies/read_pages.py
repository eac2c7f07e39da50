"""A report as a browser takes it apart: its words, its scripts, its ids and what it would load."""

import importlib.resources
import json
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    VOID = frozenset(("meta", "br", "link", "img", "hr", "use", "path", "input"))

    def __init__(self, source):
        super().__init__()
        self.ids, self.links, self.handlers, self.open, self.scripts = [], [], [], [], []
        self._words, self._drawn = [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith(("data:", "#")):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif "svg" in self.open:
            self._drawn.append(data)
        elif "style" not in self.open:
            self._words.append(data)

    @property
    def text(self):
        """What stands on it beside its figures."""
        return "".join(self._words)

    @property
    def sentences(self):
        """The same, with one space where there are any."""
        return re.sub(r"\s+", " ", self.text)

    @property
    def drawn(self):
        """The words of its figures: what they show, said for whoever cannot see it."""
        return "".join(self._drawn)


def page_of(path):
    """A page that is whole: every tag closed, no id twice, nothing loaded, and no script but its own two."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.open, "every tag is closed"
    assert len(page.ids) == len(set(page.ids)), "no id is used twice"
    assert page.links == [] and not re.search(r"url\((?!#)", source), "nothing is loaded from elsewhere"
    assert page.handlers == [], "nothing runs that is not in its script"
    own = importlib.resources.files("npk.studies.pages").joinpath("page_script.js").read_text(encoding="utf-8")
    (kind, data), (plain, script) = page.scripts
    assert kind == {"type": "application/json", "id": "page-data"} and plain == {}
    assert script.strip() == own.strip() and source.count("<script") == 2 == source.count("</script")
    assert "<" not in data, "what a stranger calls a class ends no script"
    return page, json.loads(data or "null")
