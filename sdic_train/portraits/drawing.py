"""The order and the geometry in which a portrait's parts are painted."""

from __future__ import annotations

from collections.abc import Mapping

from sdic_train.portraits.canvas import Canvas, Shape, brush, capsule, circle, ellipse, merged, mix, ramp, rgb, rounded_box
from sdic_train.portraits.details import Details

SKIN = tuple(map(rgb, ("ffe0c8", "f3c7a0", "dba577", "a9744f", "7d5238")))
HAIR = tuple(map(rgb, ("2b2328", "573726", "8f4a2a", "b9803f", "e6bf72")))
GREY = rgb("d9d8d8")
EYE = tuple(map(rgb, ("5a3620", "4f7a46", "3b79b5")))
FRAME = tuple(map(rgb, ("1d1d24", "4a2a1c", "a32434")))
SHIRT = tuple(map(rgb, ("2f4478", "2f7d86", "6f8a45", "d7a03c", "b8523c")))
BACKGROUND = tuple(map(rgb, ("a9c4e6", "a8d8d0", "f0dcb2", "eebcb4")))
BLACK, WHITE, RED = rgb("000000"), rgb("ffffff"), rgb("d8433f")
SIDES = (-1, 1)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


class Scene:
    """One portrait on one canvas: colours and positions that several parts share, and a method for each part."""

    def __init__(self, canvas: Canvas, value: Mapping[str, float], details: Details) -> None:
        self.canvas, self.paint, self.value, self.details = canvas, canvas.paint, value, details
        self.x, self.y = 0.02 * value["shift_right"], 0.02 * value["shift_down"] - 0.02
        # The eyes stay in place, as in aligned photographs: the head turns around them, the nose comes forward.
        turn = value["yaw"]
        self.head_x, self.face_x, self.nose_x = self.x - 0.05 * turn, self.x + 0.055 * turn, self.x + 0.105 * turn
        self.eye_y = self.y - 0.03
        # Wrinkles and grey appear in the second half of life.
        ripe = min(max((value["age"] - 0.42) / 0.35, 0), 1)
        self.old = ripe * ripe * (3 - 2 * ripe)
        self.skin = ramp(SKIN, value["skin_tone"])
        self.shade = mix(self.skin, rgb("6b2418"), 0.3)
        self.hair = mix(ramp(HAIR, value["hair_colour"]), GREY, 0.92 * self.old)
        self.hair_shade = mix(self.hair, BLACK, 0.28)
        self.width = 1 + 0.08 * value["face_width"]
        self.cranium = ellipse(self.head_x, self.y - 0.12, 0.44 * self.width, 0.5)
        jaw = ellipse(self.head_x + 0.035 * turn, self.y + 0.2, _between(0.31, 0.39, value["jaw"]) * self.width, 0.4)
        self.face = merged(self.cranium, jaw, 0.2)

    def draw(self) -> None:
        """Paints everything, back to front."""
        for part in (self.background, self.back_hair, self.body, self.ears, self.head):
            part()
        self.details.on_face(self.canvas, self.face_x, self.y, self.shade)
        for part in (self.wrinkles, self.nose, self.mouth, self.eyes, self.brows, self.temples, self.front_hair):
            part()
        self.details.on_ears(self.canvas, tuple(self.ear(side) for side in SIDES))
        self.details.on_head(self.canvas, self.head_x, self.y)
        self.lenses()

    def background(self) -> None:
        """A plain or graded wall."""
        top = ramp(BACKGROUND, self.value["background_colour"])
        self.canvas.gradient(top, mix(top, mix(top, rgb("3a3050"), 0.5), self.value["background_gradient"]))
        self.details.on_wall(self.canvas)

    def back_hair(self) -> None:
        """The hair behind neck and shoulders."""
        length = self.value["hair_length"] * (1 - 0.75 * self.value["baldness"])
        top, bottom = self.y - 0.3, self.y + _between(0.0, 0.95, length)
        block = rounded_box(self.head_x, (top + bottom) / 2, (0.45 + 0.1 * length) * self.width, (bottom - top) / 2, 0.22)
        self.paint(merged(self.cap(), block, 0.15), self.hair_shade)

    def cap(self) -> Shape:
        """The outline of the hair around the skull."""
        bald = self.value["baldness"]
        volume = 0.075 - 0.05 * bald
        skull = ellipse(self.head_x, self.y - 0.14, 0.44 * self.width + 0.02 + 0.6 * volume, 0.52 + volume)
        # The crown is cleared from above: a receding hairline alone would leave a thin rim around the skull.
        top = self.y - 0.14 - _between(0.7, 0.12, bald)
        return skull & rounded_box(self.head_x, top + 1, 0.46 * self.width + 0.05, 1, 0.2 * bald)

    def body(self) -> None:
        """Shirt, neck, and the shadow of the chin on it."""
        shirt, light = ramp(SHIRT, self.value["shirt_colour"]), self.value["light"]
        torso, neckline = ellipse(self.x, self.y + 1.36, 0.92, 0.64), ellipse(self.x, self.y + 0.72, 0.23, 0.13)
        self.paint(torso, shirt)
        lit = ellipse(self.x + 0.5 * light, self.y + 1.3, 0.75, 0.62)
        self.paint(torso - lit, mix(shirt, BLACK, 0.45), 0.8, 0.35, within=torso)
        self.details.on_shirt(self.canvas, self.x, self.y)
        self.paint(neckline.grown(0.045), mix(shirt, WHITE, 0.3), within=torso)
        self.paint(neckline, self.skin)
        neck = rounded_box(self.x, self.y + 0.5, 0.17, 0.3, 0.08)
        self.paint(neck, self.skin)
        self.paint(self.face.moved(-0.03 * light, 0.09), self.shade, 0.9, 0.04, within=neck)
        self.details.on_neck(self.canvas, self.x, self.y)

    def ear(self, side: int) -> tuple[float, float]:
        """The middle of an ear; the one turned away moves behind the head."""
        return self.head_x + side * (0.435 * self.width - 0.05 * side * self.value["yaw"]), self.y + 0.03

    def ears(self) -> None:
        """Both ears."""
        for side in SIDES:
            x, y = self.ear(side)
            self.paint(ellipse(x, y, 0.075, 0.115), mix(self.skin, self.shade, 0.25))
            self.paint(ellipse(x + 0.012 * side, y, 0.038, 0.07), self.shade, 0.7)

    def head(self) -> None:
        """The face with its shadow on the side away from the light, and red cheeks."""
        light = self.value["light"]
        self.paint(self.face, self.skin)
        away = self.face - ellipse(self.head_x + 0.26 * light, self.y - 0.05, 0.46 * self.width, 0.62)
        self.paint(away, self.shade, 0.9, 0.16, within=self.face)
        for side in SIDES:
            self.paint(ellipse(self.face_x + 0.24 * side, self.y + 0.17, 0.1, 0.075), RED, 0.22 - 0.1 * self.old, 0.1, within=self.face)

    def wrinkles(self) -> None:
        """Lines of age on forehead, under the eyes and beside the mouth."""
        ink = mix(self.skin, rgb("4a1c14"), 0.55)
        for row, half_width in ((-0.4, 0.17), (-0.325, 0.21)):
            self.paint(brush(self.face_x, self.y + row, half_width, 0.016, bend=0.02), ink, 0.8 * self.old)
        for side in SIDES:
            self.paint(brush(self.eye_x(side), self.eye_y + 0.135, 0.095, 0.018, bend=-0.03), ink, 0.75 * self.old)
            x, y = self.face_x + 0.205 * side, self.y + 0.255
            self.paint(brush(x, y, 0.11, 0.018, bend=-0.03 * side, tilt=0.05 * side, upright=True), ink, 0.85 * self.old)

    def eye_x(self, side: int, outwards: float = 0) -> float:
        """The middle of an eye, or a place `outwards` of it; the far eye is closer to the middle of the face."""
        return self.face_x + side * (0.195 - 0.02 * side * self.value["yaw"] + outwards)

    def eyes(self) -> None:
        """White, iris, pupil, highlight and upper lid of both eyes."""
        scale = 1 + 0.18 * self.value["eye_size"]
        half_width, opening = 0.112 * scale, _between(0.06, 0.098, self.value["eye_opening"]) * scale
        colour = ramp(EYE, self.value["eye_colour"])
        for side in SIDES:
            x, y = self.eye_x(side), self.eye_y
            white = brush(x, y, half_width, opening)
            gaze = x + 0.012 * self.value["yaw"]
            self.paint(white, rgb("fbf8f4"))
            self.paint(circle(gaze, y, 0.066 * scale), colour, within=white)
            self.paint(circle(gaze, y, 0.034 * scale), rgb("171216"), within=white)
            self.paint(circle(gaze + 0.028 * scale * self.value["light"], y - 0.028 * scale, 0.019), WHITE, 0.95)
            self.paint(brush(x, y - opening, half_width * 1.08, 0.022, bend=opening), rgb("33201f"))

    def brows(self) -> None:
        """Both eyebrows."""
        colour = mix(self.hair, rgb("2e1c14"), 0.45 - 0.2 * self.old)
        height = self.eye_y - 0.175 - 0.04 * self.value["brow_height"]
        for side in SIDES:
            tilt = 0.05 * self.value["brow_tilt"] * side
            self.paint(brush(self.eye_x(side, 0.005), height, 0.135, 0.031, bend=0.03, tilt=tilt), colour)

    def nose(self) -> None:
        """The bridge's shadow, the tip and its lower edge."""
        scale = 1 + 0.18 * self.value["nose_size"]
        light, tip = self.value["light"], self.y + 0.145 + 0.02 * scale
        away = -1 if light > 0 else 1
        bridge = brush((self.face_x + self.nose_x) / 2 + 0.045 * away, tip - 0.11, 0.12, 0.03, upright=True)
        self.paint(bridge, self.shade, 0.6 * abs(light), 0.04)
        self.paint(ellipse(self.nose_x, tip, 0.075 * scale, 0.05 * scale), self.shade, 0.85, 0.03)
        self.paint(ellipse(self.nose_x, tip - 0.018, 0.068 * scale, 0.048 * scale), self.skin, 1, 0.02)
        edge = brush(self.nose_x, tip + 0.036 * scale, 0.065 * scale, 0.014, bend=-0.018)
        self.paint(edge, mix(self.shade, rgb("3a1210"), 0.35), 0.85)

    def mouth(self) -> None:
        """Lips, and between them the teeth and the dark of an open mouth."""
        smile, opening = self.value["smile"], self.value["mouth_open"]
        x = (self.face_x + self.nose_x) / 2
        bend = -0.1 * smile if smile > 0 else -0.05 * smile
        half_width, gap = 0.165 + 0.04 * smile, 0.012 + 0.075 * opening
        # The corners carry the bend; moving the middle against it keeps the mouth in its place.
        y = self.y + 0.335 - 0.45 * bend
        lips = mix(mix(self.skin, rgb("b8343c"), 0.6), BLACK, 0.08)
        inside = brush(x, y, half_width, gap, bend)
        self.paint(brush(x, y + 0.006, half_width + 0.022, gap + 0.036, bend), lips)
        self.paint(inside, rgb("4a1218"))
        teeth = brush(x, y - 0.8 * gap, half_width * 0.9, gap, bend)
        self.paint(teeth, rgb("fffaf2"), min(max(3 * opening - 0.6, 0), 1), within=inside)

    def front_hair(self) -> None:
        """The hair over forehead and temples, with a parting and a sheen."""
        value, bald, parting = self.value, self.value["baldness"], self.value["parting"]
        brow = self.y + _between(_between(-0.47, -0.27, value["fringe"]), -0.95, bald)
        opening = ellipse(self.head_x + 0.03 * value["yaw"], brow + 0.62, 0.385 * self.width, 0.62)
        slanted = Shape(opening.bounds, lambda x, y: opening.distance(x, y + 0.22 * parting * (x - self.head_x)))
        hair = self.cap() & rounded_box(self.head_x, self.y - 0.7, 0.8, 0.7 + 0.02, 0.05)
        length = value["hair_length"] * (1 - bald)
        for side in SIDES:
            start = (self.head_x + side * 0.44 * self.width, self.y - 0.12)
            end = (self.head_x + side * (0.43 + 0.06 * length) * self.width, self.y - 0.1 + 0.9 * length)
            hair = merged(hair, capsule(start, end, 0.03 + 0.055 * min(4 * length, 1)), 0.06)
        hair = hair - slanted
        self.paint(hair, self.hair)
        sheen = brush(self.head_x + 0.1 * value["light"], self.y - 0.54, 0.32, 0.045, 0.09, -0.05 * value["light"])
        self.paint(sheen, mix(self.hair, WHITE, 0.4), 0.6 * (1 - bald), 0.05, within=hair)
        crown = brush(self.head_x - 0.2 * parting, self.y - 0.6, 0.17, 0.014, 0, 0.05 * parting, upright=True)
        self.paint(crown, self.hair_shade, 0.9 * (1 - bald), 0.01, within=hair)

    def temples(self) -> None:
        """The glasses' arms, which the hair may cover."""
        colour, strength = ramp(FRAME, self.value["frame_colour"]), self.value["glasses"]
        for side in SIDES:
            hinge, ear = (self.eye_x(side, 0.15), self.eye_y - 0.03), (self.ear(side)[0], self.eye_y - 0.05)
            self.paint(capsule(hinge, ear, 0.018), colour, strength)

    def lenses(self) -> None:
        """The glasses' frame, bridge, and the sky in the lenses."""
        colour, strength = ramp(FRAME, self.value["frame_colour"]), self.value["glasses"]
        rounding = _between(0.15, 0.05, self.value["frame_shape"])
        for side in SIDES:
            lens = rounded_box(self.eye_x(side, 0.002), self.eye_y + 0.015, 0.16, 0.15, rounding)
            self.paint(lens, rgb("dff0ff"), 0.16 * strength)
            self.paint(lens.outline(_between(0.02, 0.042, strength)), colour, strength)
        self.paint(brush(self.face_x, self.eye_y - 0.035, 0.035 + 0.02, 0.034, bend=0.01), colour, strength)
