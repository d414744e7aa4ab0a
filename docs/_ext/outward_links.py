"""Links from a page to parts of the repository that are no pages: shown as text here, links where the Markdown is read.

The site has no copy of the source tree. A link to what is not there stays a warning, and so fails the build.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

REPOSITORY = Path(__file__).resolve().parents[2]


class OutwardLinks(SphinxPostTransform):
    default_priority = 8
    """MyST's own resolver, which would warn, has 9."""

    def run(self, **kwargs: object) -> None:
        for node in list(self.document.findall(pending_xref)):
            here = Path(self.env.doc2path(node.get("refdoc", self.env.docname))).parent
            target = str(node.get("reftarget", "")).partition("#")[0]
            # An included page's links are as its own file has them, so also from the root of the repository.
            outward = (here / target).is_dir() or (REPOSITORY / target).exists()
            if node.get("reftype") == "myst" and "/" in target and outward:
                node.replace_self(nodes.inline("", "", *node.children, classes=["outward"]))


def setup(app: Sphinx) -> dict[str, object]:
    app.add_post_transform(OutwardLinks)
    return {"parallel_read_safe": True}
