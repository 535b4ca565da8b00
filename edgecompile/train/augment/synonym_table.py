"""A small table of English words and phrases that mean the same wherever they stand (our own).

Only words with one common sense and the same form: a verb's past for its past, a plural for a
plural. A line is a phrase and its alternatives, with tabs between: the form of a user's file.
"""
from __future__ import annotations

TABLE = """\
as soon as possible\tright away\tstraight away
a bit\ta little
a lot of\tlots of\tplenty of
at the moment\tcurrently\tright now
every day\teach day
every morning\teach morning
every evening\teach evening
every night\teach night
all of the\tall the
could you\tcan you
can you\tcould you
i would like\tI'd like\tI want
i'd like\tI would like\tI want
i need to\tI have to\tI must
i have to\tI need to\tI must
turn on\tswitch on
turn off\tswitch off
switch on\tturn on
switch off\tturn off
turned on\tswitched on
turned off\tswitched off
switched on\tturned on
switched off\tturned off
turning on\tswitching on
turning off\tswitching off
get rid of\tremove
look for\tsearch for
search for\tlook for
find out\tdiscover
make sure\tensure
ensure\tmake sure
large\tbig
huge\tenormous\tgigantic
enormous\thuge\tgigantic
tiny\tvery small
quickly\trapidly
rapidly\tquickly
begin\tstart
begins\tstarts
began\tstarted
buy\tpurchase
buys\tpurchases
bought\tpurchased
purchased\tbought
helps\tassists
helped\tassisted
repaired\tfixed\tmended
fix\trepair
fixed\trepaired
choose\tselect\tpick
chose\tselected\tpicked
select\tchoose\tpick
delete\terase\tremove
deleted\terased\tremoved
increased\traised
decreased\treduced\tlowered
reduce\tlower\tdecrease
reduced\tlowered\tdecreased
finish\tcomplete
finished\tcompleted
completed\tfinished
allow\tpermit
allows\tpermits
allowed\tpermitted
require\tneed
requires\tneeds
receive\tget
received\tgot
obtain\tget
attempt\ttry
attempted\ttried
glad\thappy\tpleased
sad\tunhappy
angry\tfurious\tmad
beautiful\tlovely\tgorgeous
lovely\tbeautiful
ugly\thideous
terrible\tawful\tdreadful
awful\tterrible\tdreadful
horrible\tterrible\tawful
excellent\tgreat\tsuperb
wonderful\tmarvellous\tfantastic
fantastic\twonderful\tgreat
amazing\tastonishing\tincredible
boring\tdull\ttedious
funny\tamusing
strange\todd\tweird
weird\tstrange\todd
difficult\thard
important\tsignificant\tcrucial
incorrect\twrong
expensive\tcostly\tpricey
cheap\tinexpensive
wealthy\trich
clever\tsmart\tintelligent
intelligent\tclever\tsmart
stupid\tfoolish\tsilly
dirty\tfilthy
noisy\tloud
quiet\tsilent
silent\tquiet
chilly\tcold
damp\tmoist
faulty\tbroken\tdefective
entire\twhole
usual\tnormal
nearby\tclose by
famous\twell known\trenowned
unhappy\tsad\tmiserable
really\ttruly
extremely\tvery
often\tfrequently
frequently\toften
sometimes\tnow and then\toccasionally
occasionally\tsometimes\tnow and then
rarely\tseldom
seldom\trarely
usually\tnormally\tgenerally
almost\tnearly
nearly\talmost
maybe\tperhaps\tpossibly
perhaps\tmaybe\tpossibly
probably\tmost likely
therefore\tthus
immediately\tat once\tright away
instantly\tat once\timmediately
suddenly\tall of a sudden
finally\tat last
shortly\tsoon
again\tonce more
once more\tagain
completely\ttotally\tentirely
totally\tcompletely\tentirely
entirely\tcompletely\ttotally
approximately\troughly\tabout
roughly\tabout\tapproximately
although\tthough
until\ttill
sofa\tcouch
couch\tsofa
television\tTV
TV\ttelevision\ttelly
telephone\tphone
phone\ttelephone
automobile\tcar
bicycle\tbike
bike\tbicycle
photo\tpicture\tphotograph
movie\tfilm
song\ttrack
songs\ttracks
kid\tchild
kids\tchildren
children\tkids
mum\tmother
mom\tmother
dad\tfather
father\tdad
doctor\tphysician
rubbish\ttrash\tgarbage
trash\trubbish\tgarbage
garbage\trubbish\ttrash
vacation\tholiday
apartment\tflat
mistake\terror
mistakes\terrors
problem\tissue
problems\tissues
tasks\tjobs
fridge\trefrigerator
refrigerator\tfridge
vacuum cleaner\thoover
elevator\tlift
flashlight\ttorch
grocery list\tshopping list
shopping list\tgrocery list
hi\thello\they
hello\thi\they
hey\thi\thello
okay\tok\tall right
ok\tokay\tall right
yes\tyeah\tyep
yeah\tyes\tyep
no thanks\tno thank you
goodbye\tbye\tsee you
bye\tgoodbye
"""
