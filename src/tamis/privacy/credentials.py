"""Credentials in a text: keys, tokens and passwords, by the plugins of detect-secrets; no network is asked."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tamis.errors import RecipeError
from tamis.privacy.spans import Span, apart

# kind, as the placeholder names it -> plugin
PLUGINS = {
    "AWS_KEY": "aws.AWSKeyDetector",
    "ARTIFACTORY_KEY": "artifactory.ArtifactoryDetector",
    "AZURE_KEY": "azure_storage_key.AzureStorageKeyDetector",
    "PASSWORD": "basic_auth.BasicAuthDetector",
    "CLOUDANT_KEY": "cloudant.CloudantDetector",
    "DISCORD_TOKEN": "discord.DiscordBotTokenDetector",
    "GITHUB_TOKEN": "github_token.GitHubTokenDetector",
    "GITLAB_TOKEN": "gitlab_token.GitLabTokenDetector",
    "IBM_KEY": "ibm_cloud_iam.IbmCloudIamDetector",
    "JWT": "jwt.JwtTokenDetector",
    "MAILCHIMP_KEY": "mailchimp.MailchimpDetector",
    "NPM_TOKEN": "npm.NpmDetector",
    "OPENAI_KEY": "openai.OpenAIDetector",
    "PYPI_TOKEN": "pypi_token.PypiTokenDetector",
    "SENDGRID_KEY": "sendgrid.SendGridDetector",
    "SLACK_TOKEN": "slack.SlackDetector",
    "SOFTLAYER_KEY": "softlayer.SoftlayerDetector",
    "SQUARE_KEY": "square_oauth.SquareOAuthDetector",
    "STRIPE_KEY": "stripe.StripeDetector",
    "TELEGRAM_TOKEN": "telegram_token.TelegramBotTokenDetector",
    "TWILIO_KEY": "twilio.TwilioKeyDetector",
    # what a name or its disorder makes suspicious, not its form: with many false finds, so it must be asked for
    "NAMED_SECRET": "keyword.KeywordDetector",
    "HEX_SECRET": "high_entropy_strings.HexHighEntropyString",
    "BASE64_SECRET": "high_entropy_strings.Base64HighEntropyString",
}
GUESSED = ("NAMED_SECRET", "HEX_SECRET", "BASE64_SECRET")
PRIVATE_KEY = "PRIVATE_KEY"
KINDS = (PRIVATE_KEY, *(kind for kind in PLUGINS if kind not in GUESSED))
LACKING = "credentials are found by detect-secrets, which is missing: pip install 'tamis[pii]'"
LONGEST = 4000  # characters of a line that are looked at
SHORTEST = 4  # of a password in an address: shorter ones stand elsewhere in the line too
_NAME = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_BLOCK = re.compile(rf"-----BEGIN {_NAME}(?P<body>.*?)(?P<end>-----END {_NAME}|\Z)", re.DOTALL)
_BREAK = r"(?:\s|\\n)*"  # line ends, also written out as in JSON
_BODY = re.compile(rf"{_BREAK}(?:[\w-]+:[^\n]*\n\s*)*(?:[A-Za-z0-9+/=]{{20,}}{_BREAK})+")


def find(text: str, kinds: Sequence[str] = KINDS) -> list[Span]:
    """Credentials of these kinds in a text, in order and without overlaps. RecipeError without detect-secrets.

    A private key is its whole block; one of which only the first line is there, as in lessons, is none.
    """
    found = list(_blocks(text)) if PRIVATE_KEY in kinds else []
    plugins = [(kind, plugin) for kind, plugin in _plugins().items() if kind in kinds]
    start = 0
    for line in text.splitlines(keepends=True):
        if len(line) > 8:
            found += [span for kind, plugin in plugins for span in _in_line(line[:LONGEST], start, kind, plugin)]
        start += len(line)
    return apart(found)


def _blocks(text: str) -> Iterator[Span]:
    if "PRIVATE KEY" not in text:
        return
    for match in _BLOCK.finditer(text):
        body = _BODY.match(match["body"])
        if body is not None:
            end = match.end() if match["end"] else match.start("body") + body.end()
            yield Span(match.start(), end, PRIVATE_KEY)


def _in_line(line: str, start: int, kind: str, plugin: Any) -> Iterator[Span]:
    for secret in sorted(set(plugin.analyze_string(line))):
        if not secret or (kind == "PASSWORD" and len(secret) < SHORTEST) or not _disorderly(secret, plugin):
            continue
        place = line.find(secret)
        while place >= 0:
            yield Span(start + place, start + place + len(secret), kind)
            place = line.find(secret, place + len(secret))


def _disorderly(secret: str, plugin: Any) -> bool:
    """Whether a string has the entropy that its plugin asks for, where it asks for one."""
    limit = getattr(plugin, "entropy_limit", None)
    return limit is None or plugin.calculate_shannon_entropy(secret) > limit


@functools.cache
def _plugins() -> dict[str, Any]:
    import importlib

    try:
        loaded = {kind: (importlib.import_module(_module(name)), name) for kind, name in PLUGINS.items()}
    except ModuleNotFoundError as error:
        raise RecipeError(LACKING) from error
    return {kind: getattr(module, name.partition(".")[2])() for kind, (module, name) in loaded.items()}


def _module(name: str) -> str:
    return f"detect_secrets.plugins.{name.partition('.')[0]}"
