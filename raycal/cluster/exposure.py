"""What a cluster file must not open to others, and must not hold: ports, an absent token, credentials."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raycal.doctor import Finding

TUNNEL = "ray dashboard FILE makes an SSH tunnel to it"
SECRETS = {"an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
           "an AWS secret key": r"(?i)aws_secret_access_key\W+[\w/+]{16,}",
           "a Ray token": r"RAY_AUTH_TOKEN\s*[=:]\s*[\"']?[\w-]{16,}",
           "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
           "a password": r"(?i)\bpassword\s*[=:]\s*[\"']?[^\s\"'${<]{6,}",
           "a token of GitHub or Hugging Face": r"\b(?:ghp_|github_pat_|hf_)\w{20,}"}
KEY_FILES = ("/.aws", "/.ssh", "/.netrc", "/.config/gcloud", "/.kube")


def credentials(text: str) -> Iterator[Finding]:
    """Name credentials without printing them: what is printed lands in logs."""
    for what, pattern in SECRETS.items():
        found = re.search(pattern, text)
        if found:
            line = text.count("\n", 0, found.start()) + 1
            yield Finding("credentials", f"line {line} holds {what}", "bad",
                          "take it out, make it invalid, and give the machines a role instead (instance profile, "
                          "service account)")


def mounted(mounts: dict[str, Any]) -> Iterator[Finding]:
    """Name folders of credentials that would be copied to every machine."""
    for remote, local in mounts.items():
        if any(f"{part}/" in f"{local}/" for part in KEY_FILES):
            yield Finding("credentials", f"file_mounts {remote}: {local} copies credentials to every machine", "bad",
                          "take it out and give the machines a role instead")


def of_start(key: str, commands: list[str]) -> Iterator[Finding]:
    """Look at the commands that start Ray: who may talk to it."""
    for command in (c for c in commands if re.search(r"\bray (start|symmetric-run)\b", c)):
        host = re.search(r"--dashboard-host[= ](\S+)", command)
        if host and host[1] not in ("127.0.0.1", "localhost", "::1"):
            yield Finding("ports", f"{key}: --dashboard-host={host[1]} shows the dashboard, which runs whatever it is "
                          "sent, to the network", "bad", f"--dashboard-host=127.0.0.1; {TUNNEL}")
        mode = re.search(r"RAY_AUTH_MODE=(\w+)", command)
        if not mode or mode[1] != "token":
            said = f"RAY_AUTH_MODE={mode[1]}" if mode else "no RAY_AUTH_MODE"
            yield Finding("token", f"{key}: {said}, so whoever reaches a port of Ray's may run code", "bad",
                          "RAY_AUTH_MODE=token ray start ..., as cluster/gpu.yaml does it")


def of_group(rules: list[Any]) -> Iterator[Finding]:
    """Look at the ports that a security group opens besides SSH."""
    for rule in (r for r in rules if isinstance(r, dict)):
        ranges = [*(r.get("CidrIp") for r in rule.get("IpRanges", [])),
                  *(r.get("CidrIpv6") for r in rule.get("Ipv6Ranges", []))]
        ports = (rule.get("FromPort"), rule.get("ToPort"))
        if ports != (22, 22) and {"0.0.0.0/0", "::/0"} & set(ranges):
            yield Finding("ports", f"provider.security_group opens {ports[0]} to {ports[1]} to everybody", "bad",
                          f"take the rule out; {TUNNEL}")
