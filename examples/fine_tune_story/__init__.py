"""Four small fine-tunes of one aligned model, to audit: do they keep its refusals?"""
