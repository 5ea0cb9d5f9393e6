"""Serve the proxy: `python -m embedder_proxy`."""

from agegender_service import quick_imports


def main() -> None:
    with quick_imports():
        from agegender_service.app import return_large_blocks, serve
        from agegender_service.settings import read_settings

        from embedder_proxy.app import create_proxy
        from embedder_proxy.settings import ProxySettings

    return_large_blocks()
    settings = read_settings(ProxySettings)
    serve(create_proxy(settings), settings, settings.port)


if __name__ == "__main__":
    main()
