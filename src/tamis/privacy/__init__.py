"""What a text must not give away: personal data (`personal`) and credentials (`credentials`), found and masked.

`spans` puts places of both together, `rows` goes over what a row says. Both finders are libraries of the extra `pii`:
pattern recognisers of Microsoft's Presidio, without a language model, and the plugins of Yelp's detect-secrets. Nothing
found is ever written down: only its kind, and how often.
"""
