"""Public data sets: from the files as they are downloaded to a datalist with the split that the field uses.

One module a data set, each with a function ``find(src)`` that says what lies in a folder; `run` does the rest.
"""

NAMES = ("la", "pancreas_ct", "decathlon", "kvasir", "covid_qu_ex")
