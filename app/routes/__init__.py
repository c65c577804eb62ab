"""HTTP routes: handlers of a few lines over services that know no HTTP."""
