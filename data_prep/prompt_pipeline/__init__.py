"""What `data_prep.prompts` does, a file per idea, in the order in which a log goes through them.

staging -> engine; steps (Ibis); overlap, near_duplicates and pii_step (Python) -> outputs, report
"""
