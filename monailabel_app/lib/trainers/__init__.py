"""A training from the labels of the datastore to a judged version, as child processes of the server."""
