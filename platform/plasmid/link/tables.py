"""The tables of :mod:`plasmid.link.registry`. Times are UTC."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Of all tables here."""


class MemberRow(Base):
    """Who was ever enrolled; a row stays when its member is revoked."""

    __tablename__ = "members"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    organisation: Mapped[str] = mapped_column(String(100))
    key: Mapped[str] = mapped_column(String(64), unique=True)
    enrolled: Mapped[datetime]


class CertificateRow(Base):
    """A certificate, by the SHA-256 of its DER form.

    ``used`` is its first use, ``retires`` when it opens nothing any more; None for not yet.
    """

    __tablename__ = "certificates"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    member: Mapped[str] = mapped_column(ForeignKey("members.name"), index=True)
    request: Mapped[str] = mapped_column(String(64))
    pem: Mapped[str] = mapped_column(Text)
    issued: Mapped[datetime]
    used: Mapped[datetime | None]
    retires: Mapped[datetime | None]


class InvitationRow(Base):
    """An invitation, by the SHA-256 of its secret."""

    __tablename__ = "invitations"
    secret: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    role: Mapped[str] = mapped_column(String(16))
    organisation: Mapped[str] = mapped_column(String(100))
    expires: Mapped[datetime]
    used: Mapped[datetime | None]


class RevocationRow(Base):
    """A member that is out, with the signed statement (an envelope's JSON) that says so."""

    __tablename__ = "revocations"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    member: Mapped[str] = mapped_column(ForeignKey("members.name"), unique=True)
    statement: Mapped[str] = mapped_column(Text)


class ConnectionRow(Base):
    """Where the TLS of a member's last request ended."""

    __tablename__ = "connections"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    end_to_end: Mapped[bool]
