"""JPEG 2000 codestreams of the picture of :func:`planes`, by chroma subsampling.

No writer in Python subsamples the chroma of JPEG 2000, as scanners do. These were made by
OpenJPEG's opj_compress from raw YCbCr, 32 x 32, without loss.
"""

from __future__ import annotations

import base64

import numpy as np

SIDE = 32


def planes() -> np.ndarray:
    """(32, 32, 3) YCbCr whose chroma is constant in blocks of 4 x 4."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    luma, blue, red = 60 + 4 * x + 1.5 * y, 110 + 1.2 * (x // 4 * 4), 180 - 1.5 * (y // 4 * 4)
    return np.stack([luma, blue, red], axis=-1).clip(0, 255).astype(np.uint8)


CODESTREAMS = {
    "444": base64.b64decode(
        "/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwEBBwEB/1IADAAAAAEA"
        "AQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAA"
        "AAHPAAH/k8+2vhD/N7MMjfkeWy0aItcGE8YTUFHx0USSiFNSeWQhS3MUDFmXUflWr6lN2e2bIU+CZLtz"
        "YKJdE7yIxyShXBxsWnpXW43W8+XHvS6bFhmRSL5sVt10vjUiyzA+WiYAA5kivL6ggaCBjed/YbQKsYHn"
        "f3qIGN6jWQbs6XNJzncs4Sc9TVpOdP9ICTnPU1aTuWcJOc5z1NWv/ICTnOc56XUlZAIABI4OQDWgqAAq"
        "AIAAsoIiUAcAAAGtBVUAQAAABX/D56wAEU+KMjj88YVDjf5qS0td+BvPc/NmSPsMNgXzYUbAvmwSvBzQ"
        "DAgmSWWRtEiXxnqM4izi6ElL4izi6ElLuzNtZtqvKGJT3aI/dBZTLtEfugspl2iP3QWUz8fU9hQAXK1X"
        "P5AdjJEC7p8zMzMzMyqZTQoEPmZmZmZmNzKqqqqqqqpy5Obd61KTnOc50TByeQzKAYSEe4YMJCQgqTre"
        "5aip41KTnOc5znOc5znOc5znOc5znOc5znOc5znOc5znOc5znOc5znNcMreo223Dbd47gquEbwM1l8B8"
        "IsARgF+nx4ifnawpwDpIFymMoFjYMKtvoB0kDtJt+CjL1/7v/9k="
    ),
    "422": base64.b64decode(
        "/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwIBBwIB/1IADAAAAAEA"
        "AQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAA"
        "AAFnAAH/k8+2vhD/N7MMjfkeWy0aItcGE8YTUFHx0USSiFNSeWQhS3MUDFmXUflWr6lN2e2bIU+CZLtz"
        "YKJdE7yIxyShXBxsWnpXW43W8+XHvS6bFhmRSL5sVt10vjUiyzA+WiYAA5kivL6ggaCBjed/YbQKsYHn"
        "f3qIGN6jWQbs6XNJzncs4Sc9TVpOdP9ICTnPU1aTuWcJOc5z1NWv/ICTnOc56XUlZAIABI4OQDWgqAAq"
        "AIAAsoIiUAcAAAGtBVUAQAAABX/D51ARaymJcYfuInVBto09t4CNmcNmRo7bzWaHE3R0kjrbZpu22o/t"
        "R/9/x9SKFABcjrlUOIuwJ8zKpXqZJPmY3Mqqqc+TxqUolnrQTeEfQpgj7qVG2ZbmpSc5znOc5znOc5zn"
        "Oc5znOc1wyt7VtEHuzhHwHwiwBGAX6fHiJ+drCnAOkgRUFItZ6XpbD+gHSAO0m2za1Xog//Z"
    ),
    "420": base64.b64decode(
        "/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwICBwIC/1IADAAAAAEA"
        "AQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAA"
        "AAE3AAH/k8+2vhD/N7MMjfkeWy0aItcGE8YTUFHx0USSiFNSeWQhS3MUDFmXUflWr6lN2e2bIU+CZLtz"
        "YKJdE7yIxyShXBxsWnpXW43W8+XHvS6bFhmRSL5sVt10vjUiyzA+WiYAA5kivL6ggaCBjed/YbQKsYHn"
        "f3qIGN6jWQbs6XNJzncs4Sc9TVpOdP9ICTnPU1aTuWcJOc5z1NWv/ICTnOc56XUlZAIABI4OQDWgqAAq"
        "AIAAsoIiUAcAAAGtBVUAQAAABX/D5zARaqHwIHkG+QBDT23fZLlvNZocRLLJu2/H1FIUAFsfAC5iOT5m"
        "EPLJ0JcYbTG1KTnOdhvdEWqKQAAKflbzudQM+WM1f8B8IsARgF+nx4ifnawpwDo4EVBSLWekU6AdGBQA"
        "XAVaD//Z"
    ),
    "411": base64.b64decode(
        "/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwQBBwQB/1IADAAAAAEA"
        "AQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAA"
        "AAE3AAH/k8+2vhD/N7MMjfkeWy0aItcGE8YTUFHx0USSiFNSeWQhS3MUDFmXUflWr6lN2e2bIU+CZLtz"
        "YKJdE7yIxyShXBxsWnpXW43W8+XHvS6bFhmRSL5sVt10vjUiyzA+WiYAA5kivL6ggaCBjed/YbQKsYHn"
        "f3qIGN6jWQbs6XNJzncs4Sc9TVpOdP9ICTnPU1aTuWcJOc5z1NWv/ICTnOc56XUlZAIABI4OQDWgqAAq"
        "AIAAsoIiUAcAAAGtBVUAQAAABX/D5zgRawniIDrgzSHJg7lUyA6VD4zC2vifn70jMC/Cx9RIFABZfHYu"
        "WzWclw4eZO9I2o9dKNq1AfAEBVVVVVVVVFHEL0CvwHwiwBGAX6fHiJ+drCnAfCMAIh3yLxF/oB0cDtJq"
        "Zv5Nx//Z"
    ),
}
