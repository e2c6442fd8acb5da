"""What the scripts share that follow a page of docs/ word for word: its blocks of code, and changing a copy of the project."""

import pathlib
import re
import sys


class Page:
    """A page of a copy of the project: Page("docs/page.md") with the copy's folder as the first argument of the script."""

    def __init__(self, name):
        self.copy = pathlib.Path(sys.argv[1])
        self.text = (self.copy / name).read_text()

    def blocks(self, language):
        """The contents of the page's code blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.M | re.S)

    def additions(self):
        """For each block of differences the lines it adds."""
        return [[line[1:] for line in diff.splitlines() if line.startswith("+")] for diff in self.blocks("diff")]

    def write(self, file, text):
        (self.copy / file).write_text(text)

    def insert(self, file, before, lines):
        """Puts lines in front of a text that the file has exactly once."""
        path = self.copy / file
        text = path.read_text()
        assert text.count(before) == 1, f"{file} has no single {before!r}"
        path.write_text(text.replace(before, "".join(line + "\n" for line in lines) + before))
