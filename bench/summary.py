"""A text and a summary of it, written for this project (CC0), for measurements that need an answer beforehand."""

TEXT = """\
On Saturday morning, Lily and her little brother Tom went to the old farm at the end of the road. Their grandfather \
had told them that the big red barn would soon be taken down, because the roof was broken and the rain came in. Lily \
was sad, since she had played in the big red barn ever since she was small. Tom wanted to see the owls that lived \
under the roof.

When they opened the door, they saw that three young owls were sitting in a box of straw. The mother owl sat high up \
and watched them. "If the barn is taken down, the owls will have no home," said Lily. Tom had an idea. He said that \
they could build a wooden house for the owls and put it in the tall oak tree behind the farm.

Their grandfather liked the idea. He gave them wood, nails and a hammer, and on Sunday they worked all day. In the \
evening the wooden house hung in the tall oak tree. For two weeks nothing happened. Then, one night, the mother owl \
carried her young owls to the new house, one after the other. When the men came to take down the big red barn, it was \
empty, and Lily was not sad any more."""

SUMMARY = """\
Lily and her little brother Tom went to the old farm and learned that the big red barn would soon be taken down, \
because the roof was broken. Three young owls lived under the roof. Tom had the idea to build a wooden house for the \
owls and put it in the tall oak tree behind the farm. Their grandfather gave them wood, nails and a hammer. Two weeks \
later the mother owl carried her young owls to the new house, and when the men came to take down the big red barn, it \
was empty."""

REQUEST = "\n\nSummary: "
