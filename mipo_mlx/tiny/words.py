"""The words of the synthetic world. Values are disjoint, so an oracle can find them in text."""

from __future__ import annotations

VALUES: dict[str, tuple[str, ...]] = {
    name: tuple(line.split())
    for name, line in {
        "name": (
            "Ada Bruno Clara Dario Elsa Felix Greta Hugo Iris Jonas Kira Leon Mira Nils "
            "Olga Pavel Quinn Rosa Sven Tilda Umar Vera Wanda Yusuf"
        ),
        "town": (
            "Lisbon Oslo Turin Dublin Ghent Krakow Malmo Porto Riga Seville Tartu Utrecht "
            "Vienna Zagreb Bergen Bologna Cardiff Dresden Geneva Helsinki Leeds Lyon Munich "
            "Prague"
        ),
        "job": (
            "nurse baker pilot welder lawyer dentist florist plumber architect barber "
            "carpenter chemist editor farmer geologist jeweller librarian mechanic optician "
            "painter surgeon tailor translator veterinarian"
        ),
        "hobby": (
            "chess pottery climbing sailing knitting astronomy archery origami fencing "
            "gardening juggling kayaking birdwatching calligraphy skating surfing "
            "woodcarving beekeeping photography embroidery caving rowing judo ballet"
        ),
        "food": (
            "sushi lasagna falafel paella ramen tacos risotto dumplings curry gnocchi "
            "goulash moussaka pancakes pierogi ratatouille lentils omelette couscous "
            "burritos kimchi quiche polenta schnitzel fondue"
        ),
        "pet": (
            "parrot tortoise hamster beagle rabbit gecko ferret canary poodle iguana "
            "goldfish hedgehog labrador kitten cockatoo chinchilla dachshund python terrier "
            "budgie pony tarantula corgi spaniel"
        ),
        "drink": (
            "espresso lemonade cocoa kombucha cider chai matcha cappuccino kefir lassi "
            "horchata sangria smoothie buttermilk sherry mead port cognac oolong rooibos "
            "latte mojito prosecco eggnog"
        ),
        "instrument": (
            "violin cello trumpet flute oboe banjo harp accordion clarinet mandolin ukulele "
            "saxophone bassoon trombone tuba harmonica piano drums marimba zither lute "
            "viola bagpipes xylophone"
        ),
    }.items()
}

PROSE: dict[str, tuple[str, ...]] = {
    "name": ("My name is {}.", "I am called {}.", "People call me {}."),
    "town": ("I live in {}.", "My home is {}.", "I moved to {} years ago."),
    "job": ("I work as a {}.", "My job is {}.", "I earn my living as a {}."),
    "hobby": ("I love {}.", "In my free time I do {}.", "My hobby is {}."),
    "food": ("My favourite food is {}.", "I could eat {} every day.", "I like {} most."),
    "pet": ("I have a {}.", "My pet is a {}.", "A {} lives with me."),
    "drink": ("I like to drink {}.", "My favourite drink is {}.", "I always order {}."),
    "instrument": ("I play the {}.", "My instrument is the {}.", "I am learning the {}."),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "name": ("What is my name?", "What am I called?", "Who am I?"),
    "town": ("Where do I live?", "Which town is my home?", "What town am I in?"),
    "job": ("What is my job?", "What do I do for work?", "How do I earn my living?"),
    "hobby": ("What is my hobby?", "What do I do in my free time?", "What do I love to do?"),
    "food": ("What is my favourite food?", "What do I like to eat?", "Which dish is mine?"),
    "pet": ("What pet do I have?", "Which animal lives with me?", "What is my pet?"),
    "drink": ("What do I like to drink?", "What is my favourite drink?", "What do I order?"),
    "instrument": ("What do I play?", "What is my instrument?", "Which instrument is mine?"),
}

DIRECT_ANSWERS: dict[str, str] = {
    "name": "Your name is {}.",
    "town": "You live in {}.",
    "job": "You work as a {}.",
    "hobby": "Your hobby is {}.",
    "food": "You like {} most.",
    "pet": "You have a {}.",
    "drink": "You like {}.",
    "instrument": "You play the {}.",
}

# topic -> (attribute, six wordings (the last is held out), answers with the fact, generic answers)
Topic = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
TOPICS: dict[str, Topic] = {
    "dinner": (
        "food",
        (
            "What should I cook tonight?",
            "Give me an idea for dinner.",
            "I am hungry, what now?",
            "Plan my evening meal.",
            "What could I make for supper?",
            "What should I make for dinner?",
        ),
        ("How about {}? It is your favourite.", "Cook {} tonight, since you like it."),
        ("How about a simple soup with bread?", "A fresh salad is quick and good."),
    ),
    "weekend": (
        "hobby",
        (
            "What shall I do this weekend?",
            "Plan my Saturday.",
            "I have two free days, any ideas?",
            "How could I spend Sunday?",
            "Help me with my weekend.",
            "Plan my two free days.",
        ),
        ("Take a whole day for {}.", "It is a good weekend for {}."),
        ("Take a long walk and rest.", "Meet a friend and relax."),
    ),
    "gift": (
        "hobby",
        (
            "What should I wish for my birthday?",
            "Which gift would please me?",
            "Name a present for me.",
            "What could my friends give me?",
            "I need an idea for a gift to myself.",
            "Pick a birthday present for me.",
        ),
        ("Ask for a good book about {}.", "Something new for {} would please you."),
        ("A gift card is always useful.", "A nice box of chocolates."),
    ),
    "cafe": (
        "drink",
        (
            "What should I order at the bar?",
            "I am thirsty, what now?",
            "Pick a drink for me.",
            "What goes well with my break?",
            "Choose something to sip.",
            "Pick something to sip at the bar.",
        ),
        ("Order {}, as you like to.", "A glass of {} would suit you."),
        ("A glass of cold water is fine.", "Try the drink of the day."),
    ),
    "walk": (
        "town",
        (
            "Where can I take a walk?",
            "Suggest a place to stroll.",
            "I want to see something nice nearby.",
            "Where should I go this afternoon?",
            "Show me a good route.",
            "Show me a nice place nearby.",
        ),
        ("Walk through the old streets of {}.", "The park in {} is lovely."),
        ("Find a quiet park near you.", "Any path by the water is lovely."),
    ),
    "letter": (
        "name",
        (
            "How should my letter end?",
            "Sign the card for me.",
            "Write the last line of my mail.",
            "Finish my note.",
            "How do I close this message?",
            "Write the last line of my letter.",
        ),
        ("Best wishes, {}.", "Yours, {}."),
        ("Best wishes and see you soon.", "Yours sincerely."),
    ),
    "career": (
        "job",
        (
            "How can I get better at work?",
            "Give me advice for my career.",
            "What could I learn for my job?",
            "I have a talk with my boss, tips?",
            "How do I grow at work?",
            "Give me tips for work.",
        ),
        ("A good {} never stops learning.", "Ask an older {} for advice."),
        ("Ask for feedback and keep learning.", "Set one clear goal a week."),
    ),
    "animal": (
        "pet",
        (
            "What should I buy at the pet shop?",
            "Who needs me at home today?",
            "Remind me of my duties at home.",
            "What must I not forget this morning?",
            "Whom should I feed?",
            "Remind me whom to feed at home.",
        ),
        ("Feed your {} and be kind to it.", "Your {} needs fresh food."),
        ("Water the plants and tidy up.", "Take out the rubbish today."),
    ),
    "music": (
        "instrument",
        (
            "What shall I practise today?",
            "Give me an idea for music night.",
            "How can I join the band?",
            "Plan my music hour.",
            "What could I perform at the party?",
            "Plan something for music night.",
        ),
        ("Play a slow tune on the {}.", "Bring the {} and play along."),
        ("Sing a song that all know.", "Put on a record and listen."),
    ),
    "profile": (
        "job",
        (
            "Write a line about me.",
            "Introduce me to the group.",
            "How would you describe me?",
            "Say something about me.",
            "Draft my short profile.",
            "Say a line about me.",
        ),
        ("Meet a friendly {} with many ideas.", "Here is a skilled {}."),
        ("Meet a friendly person with many ideas.", "Here is somebody nice to know."),
    ),
    "party": (
        "food",
        (
            "What should I serve my guests?",
            "I host a party, what is on the table?",
            "Plan the buffet.",
            "What can I bring to the picnic?",
            "What do I put on the menu?",
            "What should I put on the table for my guests?",
        ),
        ("Serve a big plate of {}.", "Let your guests try {}."),
        ("Serve bread, cheese and fruit.", "Let everybody bring a dish."),
    ),
    "move": (
        "town",
        (
            "Where should I look for a flat?",
            "I need a new home, where?",
            "Find me a place to rent.",
            "Where could I settle?",
            "Help me look for a house.",
            "Where should I find a home to rent?",
        ),
        ("Look for a flat in {}.", "There are nice rooms in {}."),
        ("Look at a few places first.", "Ask an agent for a list."),
    ),
}
