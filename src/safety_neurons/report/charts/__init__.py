"""Parts of charts, as inline SVG: axes and marks that know nothing of what is drawn with them."""
