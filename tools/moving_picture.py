"""README's moving picture, docs/inspector.gif: the alignment inspector of chapter 7, word after word. Needs a browser.

python tools/moving_picture.py
"""

import dataclasses
import io
import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from lcl.config import get_profile
from lcl.course.saved import load_saved
from lcl.course.views import aligned
from lcl.course.widgets import AlignmentInspector
from lcl.data.scenes import open_scenes
from lcl.train.loop import Training

TARGET = Path(__file__).resolve().parent.parent / "docs" / "inspector.gif"
SCENES = (1, 8, 10)  # of the dozen

PAGE = """<!doctype html><meta charset="utf-8">
<style>{css} body {{ margin: 12px; width: 640px; }} .lcl {{ font-size: 16px; }}</style>
<div id="here"></div><script type="module">{script}
const values = {data};
render({{ model: {{ get: (name) => values[name], on() {{}}, off() {{}} }}, el: document.getElementById("here") }});
</script>"""


def main() -> None:
    """Work out what the inspector shows, and film it."""
    profile = get_profile("laptop")
    profile = dataclasses.replace(profile, training=dataclasses.replace(profile.training, recipe="lightclip"))
    world = open_scenes(profile.scenes)
    training = Training(profile, world)
    load_saved("07-lightclip", training)
    pairs = world.pairs("new_scenes", range(12))
    shown = AlignmentInspector(pairs, {"lightclip": {"exact": aligned(training.model, training.tokenizer, pairs)}})
    script = shown._esm.replace("export default exhibit(", "const { render } = exhibit(")
    data = json.dumps({"data": shown.data, "label": shown.label})
    frames = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "inspector.html"
        page_file.write_text(PAGE.format(css=shown._css, script=script, data=data), encoding="utf-8")
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 664, "height": 400})
        page.goto(page_file.as_uri())
        slider = page.get_by_role("slider", name="scene", exact=True)
        tallest = 0
        for scene in SCENES:
            slider.fill(str(scene))
            tallest = max(tallest, page.evaluate("document.documentElement.scrollHeight"))
        page.set_viewport_size({"width": 664, "height": tallest})  # every scene is seen whole, and what is said of it
        for scene in SCENES:
            slider.fill(str(scene))
            slider.blur()  # no ring around it
            for word in range(len(shown.data["scenes"][scene]["words"])):
                page.locator(".lcl-words button").nth(word).hover()
                frames.append(Image.open(io.BytesIO(page.screenshot())).convert("P", palette=Image.Palette.ADAPTIVE, colors=128))
        browser.close()
    frames[0].save(TARGET, save_all=True, append_images=frames[1:], duration=900, loop=0, optimize=True)
    print(f"{TARGET.name}: {len(frames)} frames, {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
