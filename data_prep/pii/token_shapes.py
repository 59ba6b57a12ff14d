"""Keys and tokens that their issuer gave a prefix, or a shape of their own.

Read for it: the plugins of detect-secrets 1.5 (Apache-2.0) and the issuers' own pages. A body's
length is what the issuer writes today, with room; all are bounded, so that a megabyte of letters is
not scanned to its end from every start.
"""

import re

# prefix -> what follows; both are regular expressions
_SHAPES = {
    # models
    "sk-": "[A-Za-z0-9_-]{20,250}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    "hf_|api_org_": "[A-Za-z0-9]{30,64}",  # Hugging Face
    "gsk_": "[A-Za-z0-9]{24,80}",  # Groq
    "xai-|pplx-|fw_|nvapi-|csk-|tvly-|r8_|jina_|pcsk_|tgp_v1_": "[A-Za-z0-9_-]{24,160}",
    "lsv2_(?:pt|sk)_": "[a-f0-9]{32}_[a-f0-9]{10}",  # LangSmith
    # clouds
    "(?:A3T[A-Z0-9]|A[KS]IA|ABIA|ACCA)": "[0-9A-Z]{16}",  # AWS
    "AIza": "[0-9A-Za-z_-]{30,60}",  # Google
    "ya29\\.": "[0-9A-Za-z_-]{20,400}",
    "GOCSPX-": "[0-9A-Za-z_-]{24,40}",
    "do[opr]_v1_": "[a-f0-9]{64}",  # DigitalOcean
    "dapi": "[a-f0-9]{32}(?:-[0-9])?",  # Databricks
    "LTAI": "[A-Za-z0-9]{12,30}",  # Alibaba
    "dp\\.(?:pt|st|ct|sa|scim|audit)\\.": "[A-Za-z0-9._-]{40,60}",  # Doppler
    "hv[sbr]\\.": "[A-Za-z0-9_-]{24,300}",  # Vault
    "[A-Za-z0-9]{14}\\.atlasv1\\.": "[A-Za-z0-9_=-]{60,70}",  # Terraform
    "pul-": "[a-f0-9]{40}",  # Pulumi
    "HRKU-": "[A-Za-z0-9_-]{36,70}",  # Heroku
    "vc[piark]_|nfp_|sbp_|sb_secret_": "[A-Za-z0-9_]{24,80}",  # Vercel, Netlify, Supabase
    "fm[12][ar]?_|fo1_": "[A-Za-z0-9+/=_-]{40,250}",  # Fly
    "pscale_(?:tkn|pw|oauth)_": "[A-Za-z0-9._=-]{32,64}",  # PlanetScale
    "napi_": "[a-z0-9]{60,70}",  # Neon
    # code
    "gh[pousr]_": "[A-Za-z0-9]{30,250}",  # GitHub
    "github_pat_": "[A-Za-z0-9_]{22,250}",
    "gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct|wt)-|GR1348941": "[A-Za-z0-9_.-]{20,250}",
    "npm_": "[A-Za-z0-9]{36}",
    "pypi-": "[A-Za-z0-9_-]{50,250}",
    "rubygems_": "[a-f0-9]{48}",
    "cio": "[A-Za-z0-9]{32}",  # crates.io
    "dckr_(?:pat|oat)_": "[A-Za-z0-9_-]{24,64}",  # Docker
    "ATATT3|ATCTT3|ATBB": "[A-Za-z0-9_=-]{28,250}",  # Atlassian
    "sq[pua]_": "[a-f0-9]{40}",  # Sonar
    "sntry[su]_": "[A-Za-z0-9+/=_-]{40,300}",  # Sentry
    "gl(?:c|sa)_": "[A-Za-z0-9+/=_-]{32,400}",  # Grafana
    "NR(?:AK|JS|II|RA|IQ)-": "[A-Za-z0-9_-]{20,60}",  # New Relic
    "ph[cx]_": "[A-Za-z0-9]{40,60}",  # PostHog
    "PMAK-": "[a-f0-9]{24}-[a-f0-9]{34}",  # Postman
    "fig[dou]_|figd_": "[A-Za-z0-9_-]{36,60}",  # Figma
    "lin_(?:api|oauth)_": "[A-Za-z0-9]{32,70}",  # Linear
    "secret_|ntn_": "[A-Za-z0-9]{40,60}",  # Notion
    "pat": "[A-Za-z0-9]{14}\\.[a-f0-9]{64}",  # Airtable
    "AGE-SECRET-KEY-1": "[A-Z0-9]{58}",
    # talk
    "xox[abceoprs]-|xoxe\\.xox[bp]-": "[A-Za-z0-9-]{10,250}",  # Slack
    "xapp-": "[0-9]-[A-Za-z0-9-]{10,250}",
    "[MNO][A-Za-z0-9_-]{23,25}\\.": "[A-Za-z0-9_-]{6}\\.[A-Za-z0-9_-]{27,40}",  # Discord
    "[0-9]{8,10}:": "[A-Za-z0-9_-]{35}",  # Telegram
    "(?:AC|SK)": "[a-f0-9]{32}",  # Twilio
    "SG\\.": "[A-Za-z0-9_-]{16,64}\\.[A-Za-z0-9_-]{16,64}",  # SendGrid
    "key-": "[a-f0-9]{32}",  # Mailgun
    "[0-9a-f]{24}": "[0-9a-f]{8}-us[0-9]{1,2}",  # Mailchimp
    "x(?:keysib|smtpsib)-": "[a-f0-9]{64}-[A-Za-z0-9]{16}",  # Brevo
    "re_": "[A-Za-z0-9]{6,12}_[A-Za-z0-9]{20,30}",  # Resend
    "EAA": "[A-Za-z0-9]{60,250}",  # Facebook
    # money and shops
    "[srp]k_(?:live|test)_": "[0-9A-Za-z]{16,250}",  # Stripe
    "whsec_": "[A-Za-z0-9+/=_-]{20,100}",
    "sq0(?:atp|csp|idp)-": "[0-9A-Za-z_-]{22,60}",  # Square
    "shp(?:at|ca|pa|ss)_": "[a-fA-F0-9]{32}",  # Shopify
    "EZ[AT]K": "[A-Za-z0-9]{54,60}",  # EasyPost
    # a JSON Web Token: eyJ is `{"` in Base64, of header and of claims
    "eyJ": "[A-Za-z0-9_-]{8,2000}\\.eyJ[A-Za-z0-9_-]{8,4000}\\.[A-Za-z0-9_-]{8,2000}",
}
# whole URLs that let anyone write somewhere
_WEBHOOKS = (
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9_/-]{20,200}"
    r"|discord(?:app)?\.com/api/webhooks/[0-9]{15,22}/[A-Za-z0-9_-]{40,100}"
    r"|[a-z0-9-]{1,40}\.webhook\.office\.com/webhookb2/[A-Za-z0-9@_/-]{40,250}"
    r"|api\.telegram\.org/bot[0-9]{8,10}:[A-Za-z0-9_-]{35}"
)
# to the end of the text where END is missing: a key cut off is still one
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?"
    r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)"
)

_BEFORE, _AFTER = "(?<![A-Za-z0-9_])", "(?![A-Za-z0-9])"
# what the shapes above are made of, and no fewer characters: cheaper than to ask them all
RUN = "[A-Za-z0-9+/=_.:@-]{15}"
TOKEN = re.compile(
    f"{_BEFORE}(?=[0-9A-Za-z])(?={RUN})(?:"
    + "|".join(f"(?:{prefix}){body}" for prefix, body in _SHAPES.items())
    + f"|{_WEBHOOKS}){_AFTER}"
)
# without look-around, for the engine: eight characters of a body are enough to look closer
CANDIDATE = (
    r"PRIVATE KEY|hooks\.slack\.com/|/api/webhooks/|/webhookb2/|/bot[0-9]{8}"
    r"|(?:^|[^A-Za-z0-9_])(?:" + "|".join(_SHAPES) + r")[A-Za-z0-9+/=_.\-]{8}"
)
