"""What the pages need beside Sphinx's extensions.

Formulas without a network, links from names to the reference, the commands, and the notebooks.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from pages import commands, gallery, prepare
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


class Reference(SphinxTransform):
    """Link `mx.record(...)` and the like, wherever they stand in text, to the reference."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Put every such name into a link; one that leads nowhere is a warning."""
        for node in list(self.document.findall(nodes.literal)):
            found = re.match(r"mx\.([a-z_]+(?:\.[a-zA-Z_]+)?)", node.astext())
            if found is None or isinstance(node.parent, pending_xref | nodes.reference):
                continue
            link = pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=f"mlem_xr.{found[1]}",
                refdoc=self.env.docname,
                refexplicit=True,
            )
            node.replace_self(link)
            link += node


class Commands(SphinxDirective):
    """Every command with its options, as `--help` has them."""

    def run(self) -> list[nodes.Node]:
        """Parse the text of `commands`."""
        self.env.note_reread()
        return self.parse_text_to_nodes(commands(), allow_section_headings=True)


class Gallery(SphinxDirective):
    """A card with a picture for every notebook that there is."""

    def run(self) -> list[nodes.Node]:
        """Parse the text of `gallery`."""
        self.env.note_reread()
        return self.parse_text_to_nodes(gallery())


def _visit_math(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    try:
        formula = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        logger.warning("formula: %s", error, location=node)
        formula = node.astext()
    translator.body.append(formula)
    raise nodes.SkipNode


def setup(sphinx: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what is here."""
    sphinx.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))
    sphinx.add_transform(Reference)
    sphinx.add_directive("commands", Commands)
    sphinx.add_directive("gallery", Gallery)
    for name in ("csv", "fcfg"):
        sphinx.add_lexer(name, TextLexer)
    sphinx.connect("config-inited", lambda *_: prepare())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
