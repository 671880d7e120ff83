# SPDX-License-Identifier: Apache-2.0
"""The manual pages, made of what is declared (commands, options, columns) and of the documentation.

``python -m dmtool.cli.manual`` in a checkout writes them to ``man/``, from where they are
installed; ``python -m dmtool.cli.manual README.md`` prints the page of a target type.
"""
