"""A classifier of closed forms that knows each labelled document from the next request on."""
