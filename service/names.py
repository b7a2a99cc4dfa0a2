"""What models and their versions may be called: as folders of the repository, in settings and in paths."""

from typing import Annotated

from pydantic import Field

MODEL = r"[a-z][a-z0-9-]{0,63}"
VERSION = r"[1-9][0-9]{0,8}"

ModelName = Annotated[str, Field(pattern=rf"^{MODEL}$")]
VersionNumber = Annotated[str, Field(pattern=rf"^{VERSION}$")]
