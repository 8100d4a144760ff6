"""What is known about each data set: facts only, no code that reads or downloads.

Checksums are of two kinds: that of a file as published guards a download; that of the unpacked bytes serves for
checking a copy however it is packed. They read "sha256:..." or "md5:...". None: there is none that could be verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from refimpl._names import expected

__all__ = ["CATALOGUE", "Info", "Published", "names", "spec"]


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it: its name, its size in bytes, its checksum."""

    name: str
    size: int
    checksum: str | None


@dataclass(frozen=True)
class Info:
    """One data set: what it is, who made it, where it comes from.

    `kind` says what its records are, `format` which module of refimpl.data reads them. For images `shape` is (C, H, W),
    `n_train` and `n_test` are the published numbers of images, `classes` the name of each label; other kinds say in
    `amount` how much there is. `embedded` sets come with the library. `downloads` are the files that are fetched,
    each from the first of the `mirrors` (addresses of folders) that delivers it; when that is one archive,
    `members` are the files it holds. `contents` maps file names without .gz or .xz to the checksum of their
    unpacked bytes.
    """

    name: str
    title: str
    source: str
    licence: str
    n_classes: int = 0
    shape: tuple[int, ...] = ()
    n_train: int = 0
    n_test: int = 0
    classes: tuple[str, ...] = ()
    kind: str = "images"
    format: str = "images"
    amount: str = ""
    folder: str = ""  # where its files lie, if not in a folder of its name
    embedded: bool = False
    mirrors: tuple[str, ...] = ()
    downloads: tuple[Published, ...] = ()
    members: tuple[Published, ...] = ()
    contents: tuple[tuple[str, str | None], ...] = ()

    @property
    def what(self) -> str:
        """How much there is, in a few words."""
        size = "x".join(map(str, self.shape))
        return self.amount or f"{self.n_train:,} + {self.n_test:,}, {size}, {self.n_classes} classes"

    @property
    def download_bytes(self) -> int:
        """Bytes that a fetch brings over the network."""
        return sum(file.size for file in self.downloads)


DIGITS = Info(
    name="digits",
    title="Optical recognition of handwritten digits, 8x8 pixels (embedded)",
    source="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998. "
    "DOI 10.24432/C50P49. Copy as distributed with scikit-learn's load_digits.",
    licence="CC BY 4.0",
    n_classes=10,
    embedded=True,
    shape=(1, 8, 8),
    n_train=1415,
    n_test=382,
    classes=tuple("0123456789"),
    contents=(
        ("digits-images-idx3-ubyte", "sha256:359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96"),
        ("digits-labels-idx1-ubyte", "sha256:ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad"),
    ),
)

MNIST = Info(
    name="mnist",
    title="MNIST handwritten digits, 28x28 pixels",
    source="Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits.",
    licence="none stated",
    n_classes=10,
    shape=(1, 28, 28),
    n_train=60_000,
    n_test=10_000,
    classes=tuple("0123456789"),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    downloads=(
        Published(
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Published(
            "train-labels-idx1-ubyte.gz",
            28_881,
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        Published(
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Published(
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    contents=(
        ("train-images-idx3-ubyte", "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("train-labels-idx1-ubyte", "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("t10k-images-idx3-ubyte", "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("t10k-labels-idx1-ubyte", "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
)

FASHION_MNIST = Info(
    name="fashion-mnist",
    title="Fashion-MNIST articles of clothing, 28x28 pixels",
    source="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
    "Algorithms. 2017. arXiv:1708.07747",
    licence="MIT",
    n_classes=10,
    shape=(1, 28, 28),
    n_train=60_000,
    n_test=10_000,
    classes=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    # The authors' own address knows no https; what comes is judged by its checksum.
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    downloads=(
        Published(
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Published(
            "train-labels-idx1-ubyte.gz",
            29_515,
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        Published(
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Published(
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    contents=(
        ("train-images-idx3-ubyte", "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte", "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        ("t10k-images-idx3-ubyte", "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte", "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
)

# Batches 3, 4 and the test batch have no published checksum of their own.
_CIFAR_10_CONTENTS: tuple[tuple[str, str | None], ...] = (
    ("data_batch_1.bin", "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    ("data_batch_2.bin", "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    ("data_batch_3.bin", None),
    ("data_batch_4.bin", None),
    ("data_batch_5.bin", "md5:53f37980c15c3d472c316c40844f3f0d"),
    ("test_batch.bin", None),
)

# The first records of data_batch_5.bin and test_batch.bin.
_CIFAR_10_PARTS: tuple[tuple[str, str | None], ...] = (
    ("data_batch_5_first2500.bin", "sha256:50e0e19fec9332e633c1e905f8ed9974e85e4d731368edbccf13c69e2affb565"),
    ("test_batch_first1000.bin", "sha256:8314c96d7cd65618193bab23acdd5d4c4af15bf6dd00a1781d55beedf3be1ef5"),
)

CIFAR_10 = Info(
    name="cifar-10",
    title="CIFAR-10 colour images, 32x32 pixels",
    source="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. 2009.",
    licence="none stated",
    n_classes=10,
    shape=(3, 32, 32),
    n_train=50_000,
    n_test=10_000,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    # The author publishes an MD5 of the archive, and no other checksum. MD5 guards against damage, not against malice;
    # what is unpacked is judged again: member names, sizes, record format, and the checksums below.
    downloads=(Published("cifar-10-binary.tar.gz", 170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
    members=(
        *(Published(name, 10_000 * 3073, checksum) for name, checksum in _CIFAR_10_CONTENTS),
        Published("batches.meta.txt", 61, "sha256:558e74b5e208382e186da55784b4bac2cd52e558448e1b5800990fdb28ed8033"),
    ),
    contents=_CIFAR_10_CONTENTS + _CIFAR_10_PARTS,
)

_SHAKESPEARE = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

CORIOLANUS = Info(
    name="coriolanus",
    title="Shakespeare's Coriolanus, the beginning (embedded)",
    source="W. Shakespeare: The Tragedy of Coriolanus, about 1608; the first 64,177 bytes of Tiny Shakespeare (below).",
    licence="public domain",
    kind="text",
    format="text",
    amount="64,177 bytes",
    embedded=True,
    contents=(("input.txt", "sha256:c68648c7458a029d36a6155ada1730d5e708520b234e97a1ebb9c79b0c7f101c"),),
)

TINY_SHAKESPEARE = Info(
    name="tinyshakespeare",
    title="Tiny Shakespeare: 40,000 lines of his plays",
    source="A. Karpathy: char-rnn, 2015, data/tinyshakespeare/input.txt. The text is Shakespeare's.",
    licence="public domain; the collection MIT",
    kind="text",
    format="text",
    amount="1,115,394 bytes",
    mirrors=(
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
        "/data/tinyshakespeare/",
    ),
    downloads=(Published("input.txt", 1_115_394, _SHAKESPEARE),),
    contents=(("input.txt", _SHAKESPEARE),),
)

KARATE = Info(
    name="karate",
    title="Zachary's karate club: 34 members, who knows whom, and the two clubs they split into (embedded)",
    source="W. W. Zachary: An information flow model for conflict and fission in small groups. Journal of "
    "Anthropological Research 33, 1977.",
    licence="a record of facts",
    n_classes=2,
    classes=("instructor's club", "officers' club"),
    kind="graph",
    format="graphs",
    amount="34 nodes, 78 edges, 2 classes",
    embedded=True,
    contents=(
        ("friendships.txt", "sha256:8ba57feda2f7c6f218352288fe38ba98c5c0e0eaac7df74bf1735f142617b415"),
        ("factions.txt", "sha256:8663983c621de7bd78a0a274bc9285fe596173e970b114242749916297835db4"),
    ),
)

_PLANETOID_SOURCE = (
    "Z. Yang, W. W. Cohen, R. Salakhutdinov: Revisiting Semi-Supervised Learning with Graph Embeddings. 2016. "
    "arXiv:1603.08861"
)
_PLANETOID_MIRRORS = (
    "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/",
)
_CORA_FILES = (
    Published("ind.cora.x", 22119, "sha256:23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab"),
    Published("ind.cora.y", 4054, "sha256:94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1"),
    Published("ind.cora.tx", 148025, "sha256:b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a"),
    Published("ind.cora.ty", 28135, "sha256:41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad"),
    Published("ind.cora.allx", 257305, "sha256:9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543"),
    Published("ind.cora.ally", 47959, "sha256:2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71"),
    Published("ind.cora.graph", 59847, "sha256:58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d"),
    Published("ind.cora.test.index", 5000, "sha256:297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875"),
)
_CITESEER_FILES = (
    Published("ind.citeseer.x", 31087, "sha256:d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6"),
    Published("ind.citeseer.y", 3014, "sha256:8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924"),
    Published("ind.citeseer.tx", 260321, "sha256:539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21"),
    Published("ind.citeseer.ty", 24135, "sha256:55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce"),
    Published("ind.citeseer.allx", 595021, "sha256:2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668"),
    Published("ind.citeseer.ally", 55623, "sha256:f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95"),
    Published("ind.citeseer.graph", 61987, "sha256:d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7"),
    Published(
        "ind.citeseer.test.index", 5000, "sha256:2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"
    ),
)

CORA = Info(
    name="cora",
    title="Cora: machine-learning papers, their words and who cites whom",
    source=_PLANETOID_SOURCE,
    licence="MIT",
    n_classes=7,
    kind="graph",
    format="graphs",
    folder="planetoid",
    amount="2,708 nodes, 5,278 edges, 1,433 features, 7 classes",
    mirrors=_PLANETOID_MIRRORS,
    downloads=_CORA_FILES,
    contents=tuple((file.name, file.checksum) for file in _CORA_FILES),
)

CITESEER = Info(
    name="citeseer",
    title="CiteSeer: computer-science papers, their words and who cites whom",
    source=_PLANETOID_SOURCE,
    licence="MIT",
    n_classes=6,
    kind="graph",
    format="graphs",
    folder="planetoid",
    amount="3,327 nodes, 4,552 edges, 3,703 features, 6 classes",
    mirrors=_PLANETOID_MIRRORS,
    downloads=_CITESEER_FILES,
    contents=tuple((file.name, file.checksum) for file in _CITESEER_FILES),
)

_VOWELS = ("ae", "ah", "aw", "er", "ih", "iy", "uw")
_VOWELS_SOURCE = (
    "J. Hillenbrand, L. A. Getty, M. J. Clark, K. Wheeler: Acoustic characteristics of American English vowels. "
    "Journal of the Acoustical Society of America 97, 1995."
)

SURROGATE_VOWELS = Info(
    name="surrogate-vowels",
    title="Surrogate vowels: invented speakers, drawn from published means and deviations of formants (embedded)",
    source=f"Statistics of: {_VOWELS_SOURCE}",
    licence="published statistics",
    n_classes=7,
    classes=_VOWELS,
    kind="vowels",
    format="vowels",
    amount="259 drawn tokens, 12 features, 7 classes",
    embedded=True,
    contents=(("statistics.csv", "sha256:a31f99a34c54d15260e2ec8e62e825431e705d4c08b32488fdf822c7810695b6"),),
)

HILLENBRAND_VOWELS = Info(
    name="hillenbrand-vowels",
    title="Formants of seven American English vowels, spoken by women",
    source=f"{_VOWELS_SOURCE} Table as published with MomeniAli/PhyLL.",
    licence="MIT (table as published); measurements are facts",
    n_classes=7,
    classes=_VOWELS,
    kind="vowels",
    format="vowels",
    amount="258 tokens, 12 features, 7 classes",
    contents=(("vowels.csv", "sha256:3e531be0c4eb9158fbc0d28117b3caba1d0928e185b393cd6ce6bcc75be98ea8"),),
)

N_MNIST = Info(
    name="n-mnist-small",
    title="N-MNIST, 1,100 recordings of an event camera (SLAYER's example)",
    source="G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor: Converting static image datasets to spiking neuromorphic "
    "datasets using saccades. Frontiers in Neuroscience, 2015. Part in the form of S. B. Shrestha, G. Orchard: SLAYER, "
    "2018.",
    licence="CC BY-SA 4.0",
    n_classes=10,
    shape=(10, 2, 34, 34),
    n_train=1000,
    n_test=100,
    classes=tuple("0123456789"),
    kind="sequences",
    format="event_camera",
    contents=(("NMNISTsmall.tar", "sha256:2619aba5e1c603d940e5fc477659d5926b45b8bd25ec402d57ad9620a4366bb8"),),
)

SPOKEN_DIGITS = Info(
    name="fsdd",
    title="Free Spoken Digit Dataset, 3,000 recordings of 6 speakers",
    source="Z. Jackson and others: Free Spoken Digit Dataset, 2018.",
    licence="CC BY-SA 4.0",
    n_classes=10,
    shape=(20, 2, 32),
    n_train=2700,
    n_test=300,
    classes=tuple("0123456789"),
    kind="sequences",
    format="spoken_digits",
    contents=(("recordings.tar", "sha256:c7febd3af82872742076137222b8fd21702406e0be08481dc3b1e10b93d23bd1"),),
)

_ALL = (
    *(DIGITS, MNIST, FASHION_MNIST, CIFAR_10),
    *(KARATE, CORA, CITESEER),
    *(N_MNIST, SPOKEN_DIGITS),
    *(CORIOLANUS, TINY_SHAKESPEARE),
    *(SURROGATE_VOWELS, HILLENBRAND_VOWELS),
)
CATALOGUE: dict[str, Info] = {info.name: info for info in _ALL}


def names(kind: str | None = None) -> list[str]:
    """The data sets that `load` knows, those of a kind ("images", ...) if one is given."""
    return [name for name, info in CATALOGUE.items() if kind in (None, info.kind)]


def spec(name: str) -> Info:
    """What is known about one data set. Raises ValueError for a name that is not in `names()`."""
    if name not in CATALOGUE:
        raise ValueError(f"unknown data set {name!r}, {expected(name, names())}")
    return CATALOGUE[name]
